"""A new adapter from registered ones: combined, or cut to a smaller rank."""
