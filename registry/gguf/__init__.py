"""GGUF files.

Reading a model out of one, and writing models, adapters and tokenizers into one, in llama.cpp's words.
"""
