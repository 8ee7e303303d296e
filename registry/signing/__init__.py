"""Signatures: making them with OpenSSF model-signing, checking them with nothing but a key, and anchors of the log."""
