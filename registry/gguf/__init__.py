"""GGUF files: reading a model out of one; and the numbers of models, for those who write one."""
