"""A receiver of webhooks, to start from."""
