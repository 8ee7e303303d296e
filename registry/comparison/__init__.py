"""What adapters have in common in their weights, and new adapters from them: from factors, never from whole matrices."""
