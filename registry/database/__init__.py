"""The database: connections and transactions, the schema's state, leases and intents, and failures in one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .connection import Database

__all__ = ["Database"]


def __getattr__(name: str) -> Any:
    if name == "Database":  # a client has no SQLAlchemy
        from .connection import Database

        return Database
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
