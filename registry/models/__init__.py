"""What a model is, from its files alone: architecture, identity, the size of its weights."""
