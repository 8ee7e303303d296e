"""Changing a database as somebody would who has all rights and leaves no other trace."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def forced(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to an SQLite file on which no check or key refuses anything."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
