"""The database: connections and transactions, the schema's state, leases and intents, and failures in one sentence each."""

from .connection import Database

__all__ = ["Database"]
