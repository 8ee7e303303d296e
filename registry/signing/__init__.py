"""Signatures as OpenSSF model-signing makes them, the keys that count, and anchors of the log."""
