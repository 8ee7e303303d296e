"""INSERT with an answer for what is there already, in the words of either database."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session


def insert(session: Session, table: Any) -> Any:
    """Return an INSERT that has `on_conflict_do_update` and `on_conflict_do_nothing`.

    Only the dialect at hand is imported: PostgreSQL's brings its asynchronous driver along, a twentieth of a second.
    """
    if session.get_bind().dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)
