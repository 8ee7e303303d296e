"""How models behave: what they answer to prompts, and how far two of them are apart."""
