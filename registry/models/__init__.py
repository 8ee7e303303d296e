"""Models from their files alone: architecture, identity, size of the weights; and models in GGUF files."""
