"""Registries with a base and two adapters: made once, and copied for each test that starts with one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

_TABLES = """
SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1
"""
_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'"


@dataclass
class Template:
    """What was made once: folders as they lie under a test's own, and the rows of a database on PostgreSQL."""

    folder: Path
    rows: Mapping[str, bytes] = field(default_factory=dict)
    sequences: Mapping[str, int | None] = field(default_factory=dict)

    def copy_to(self, folder: Path) -> None:
        """Copy the folders."""
        for part in self.folder.iterdir():
            shutil.copytree(part, folder / part.name, dirs_exist_ok=True)

    def read_rows(self, url: str) -> None:
        """Take the rows of a database."""
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            names = [name for (name,) in cursor.execute(_TABLES).fetchall()]
            self.sequences = dict(cursor.execute(_SEQUENCES).fetchall())
            rows = {}
            for name in names:
                with cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))) as copy:
                    rows[name] = b"".join(bytes(piece) for piece in copy)
            self.rows = rows

    def write_rows(self, url: str) -> None:
        """Put the rows into an empty database of the same schema."""
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            # Rows are in the order of tables, not of foreign keys.
            cursor.execute("SET LOCAL session_replication_role = replica")
            for name, data in self.rows.items():
                if data:
                    with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(name))) as copy:
                        copy.write(data)
            for name, value in self.sequences.items():
                if value is not None:
                    cursor.execute("SELECT setval(%s::regclass, %s)", (name, value))


class Templates:
    """Templates by name, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, dict[str, Template]()

    def get(self, name: str, make: Callable[[Template], None]) -> Template:
        """Return a template, which `make` fills."""
        if name not in self._made:
            folder = self._folder / name
            folder.mkdir()
            made = Template(folder)
            make(made)
            self._made[name] = made
        return self._made[name]
