"""Base models: adding one from a folder, a hub or a GGUF file; listing; calibrating."""
