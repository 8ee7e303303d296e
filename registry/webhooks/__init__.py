"""Webhooks send entries of the log: at least once, and to each receiver in order (docs/guides/team.md#webhooks)."""
