"""Changing a database as somebody would who has all rights and leaves no other trace."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.orm import Session

from fusery.registry.database.guards import lifted


@contextmanager
def unguarded(session: Session) -> Iterator[None]:
    """Take the triggers of the log away, and put them back afterwards."""
    with lifted(session.connection()):
        yield
        session.flush()


@contextmanager
def forced(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to an SQLite file on which no trigger, check or key refuses anything; all are as before afterwards."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("BEGIN")
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, statement in triggers:
            connection.execute(statement)
        connection.execute("COMMIT")
