"""Identification of a folder, an archive, a safetensors or a GGUF file."""
