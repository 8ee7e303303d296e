"""Add base models, register adapters with the facts of their training runs, and amend them."""
