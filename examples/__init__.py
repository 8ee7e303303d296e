"""Examples that come with fusery."""
