"""Model cards: the origin of a bundle, as Markdown."""
