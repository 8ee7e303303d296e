"""Registries that are made once for all tests of a module, on each database.

`lasting_registry` is for what tests look at and leave as it was.  `KeptStates` is for what they change: a test finds
everything as it was when it had been made, in the same folder, since registries remember the places of what they wrote.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

LLAMA, QWEN = "tiny-llama", "tiny-qwen"
FIRST, SECOND, OTHER = "course_rec_v1_20260115", "course_rec_v2_20260201", "songs_v1_20260301"
KEEP = FuseRequest(precision="keep", accept_loss=True)


@dataclass(frozen=True)
class Museum:
    registry: Registry
    originals: dict[str, Path]


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
        for part in self.folder.iterdir():
            shutil.copytree(part, folder / part.name, dirs_exist_ok=True)

    def read_rows(self, url: str) -> None:
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            names = [name for (name,) in cursor.execute(_TABLES).fetchall()]
            self.sequences = dict(cursor.execute(_SEQUENCES).fetchall())
            rows = {}
            for name in names:
                with cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))) as copy:
                    rows[name] = b"".join(bytes(piece) for piece in copy)
            self.rows = rows

    def write_rows(self, url: str) -> None:
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


@contextmanager
def lasting_registry(request: pytest.FixtureRequest, backend: str, folder: Path) -> Iterator[Registry]:
    """Yield an initialised registry, on a migrated, empty database, that lasts as long as what asks for it."""
    with (
        _module_url(request, backend, folder) as url,
        Registry(open_workspace(folder / "home", url)) as registry,
    ):
        registry.init()
        yield registry


@contextmanager
def _module_url(request: pytest.FixtureRequest, backend: str, folder: Path) -> Iterator[str]:
    if backend == "sqlite":
        path = folder / "database" / "fusery.db"
        path.parent.mkdir()
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    databases = request.getfixturevalue("postgres_databases")
    url = databases.take()
    yield url
    databases.give_back(url)


class KeptStates:
    def __init__(self, folder: Path) -> None:
        self.place, self._states = folder / "place", folder / "states"
        self._kept: dict[str, tuple[Template, Any]] = {}

    def empty_place(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        return self.place

    @contextmanager
    def opened(
        self, name: str, database_url: str, make: Callable[[Registry], Any]
    ) -> Iterator[tuple[Registry, Any]]:
        """Open the registry in a state that `make` brings about if nobody has yet; yield what that returned, too."""
        backend = make_url(database_url).get_backend_name()
        if (key := f"{name}-{backend}") not in self._kept:
            with Registry(open_workspace(self.place / "home", database_url)) as registry:
                registry.init()
                told = make(registry)
            made = Template(self._states / key)
            shutil.copytree(self.place, made.folder, symlinks=True)
            if backend == "postgresql":
                made.read_rows(database_url)
            self._kept[key] = made, told
        else:
            made, told = self._kept[key]
            shutil.copytree(made.folder, self.place, symlinks=True, dirs_exist_ok=True)
            if backend == "postgresql":
                made.write_rows(database_url)
        with Registry(open_workspace(self.place / "home", database_url)) as registry:
            registry.init()
            yield registry, deepcopy(told)
