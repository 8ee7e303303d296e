"""Compare adapters in their weights and in what they answer, and combine them into new ones, from factors only."""
