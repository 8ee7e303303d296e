"""What two adapters have in common in their weights, computed from their factors and never from whole matrices."""
