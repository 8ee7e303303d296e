"""Base models: taking one in, from a folder, a hub or a GGUF file; the list of them; what calibrates one."""
