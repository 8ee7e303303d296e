"""Where base models come from: a local folder, a hub, a GGUF file."""
