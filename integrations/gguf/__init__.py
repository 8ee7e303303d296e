"""GGUF files: models, adapters and tokenizers in llama.cpp's words, and the targets that consist of them."""
