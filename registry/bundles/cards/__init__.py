"""Model cards: what a bundle says of where it came from, as Markdown."""
