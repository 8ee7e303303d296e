"""What is in a database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text

from fusery.registry import Registry, tables
from fusery.registry.database import Database


def add_rows(registry: Registry, kind: str, count: int, **values: Any) -> None:
    model: Any = getattr(tables, f"{kind}Row")
    with registry.workspace.database.write() as session:
        adapter = session.get(tables.AdapterRow, 1)
        assert adapter is not None
        at = adapter.created_at
        moments: dict[str, Callable[[int], Any]] = {
            "Yank": lambda n: {"at": at + timedelta(microseconds=n), "lifted_at": at + timedelta(hours=1)},
            "Amendment": lambda n: {
                "at": at,
                "since": at,
                "before": f'"{n}"' if n else "null",
                "after": f'"{n + 1}"' if n + 1 < count else "null",
            },
            "Evaluation": lambda n: {"at": at, "metric": f"m{n}"},
            "Deployment": lambda n: {"at": at, "ended_at": at, "ended_by": "tester"},
        }
        session.add_all(model(adapter_id=1, by="tester", **moments[kind](n), **values) for n in range(count))


@contextmanager
def forced(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to an SQLite file on which no check or key refuses anything."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


Rows = dict[str, list[dict[str, Any]]]


def snapshot(database: Database) -> dict[str, Any]:
    """Return everything that the database knows about its tables, so that nothing at all can differ."""
    if database.path is not None and not database.path.exists():
        return {}
    with database.read() as session:
        looking = inspect(session.connection())
        found: dict[str, Any] = {}
        for name in sorted(looking.get_table_names()):
            found[name] = {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in looking.get_columns(name)
                },
                "key": looking.get_pk_constraint(name),
                "foreign": sorted(looking.get_foreign_keys(name), key=str),
                "unique": sorted(looking.get_unique_constraints(name), key=str),
                "checks": sorted(looking.get_check_constraints(name), key=str),
                "indexes": sorted(looking.get_indexes(name), key=str),
            }
        return found


def all_rows(database: Database) -> Rows:
    with database.read() as session:
        names = sorted(set(inspect(session.connection()).get_table_names()) - {"alembic_version"})
        return {
            name: sorted(
                (dict(row) for row in session.execute(text(f"SELECT * FROM {name}")).mappings()), key=str
            )
            for name in names
        }
