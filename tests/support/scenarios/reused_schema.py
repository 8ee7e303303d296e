"""What tests would make again in each new home: the schema of an SQLite file, and statements compiled to SQL.; `conftest.py` does, and everything else is as users have it.  Programs that tests start as
processes have nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, util
from sqlalchemy.engine.interfaces import Dialect

from fusery.registry.database import engine, schema

_PLAIN = (str, int, bool, tuple, type(None))
_COMPILED: util.LRUCache[Hashable, Any] = util.LRUCache(1500)
_DIALECTS: dict[Hashable, int] = {}
"""A number for all that are alike: what they have in common is long to compare for every statement."""


class SharedStatements:
    """SQLAlchemy's `compiled_cache`, for engines of all databases that speak and are set up alike."""

    def __init__(self) -> None:
        self._of: tuple[Dialect, int] | None = None
        self._number = 0

    def get(self, key: tuple[Any, ...]) -> Any:
        """Return what was compiled for a dialect like this one."""
        return _COMPILED.get(self._shared(key))

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        """Keep it."""
        _COMPILED[self._shared(key)] = compiled

    def _shared(self, key: tuple[Any, ...]) -> tuple[Hashable, ...]:
        # An engine has one dialect, which has learned all of its server before a statement is compiled.
        dialect: Dialect = key[0]
        now = dialect, len(vars(dialect))
        if self._of is None or self._of[0] is not dialect or self._of[1] != now[1]:
            self._of, self._number = now, _DIALECTS.setdefault(_facts(dialect), len(_DIALECTS))
        return self._number, *key[1:]


def _facts(dialect: Dialect) -> Hashable:
    """Return all that a dialect was told or has learned of its server, but not what it made of that by itself."""
    kind = type(dialect)
    plain = [
        (name, value)
        for name, value in vars(dialect).items()
        if isinstance(value, _PLAIN) or callable(value)
        if not isinstance(getattr(kind, name, None), util.memoized_property)
    ]
    return (kind, *sorted(plain, key=lambda fact: fact[0]))


def sharing_engine(*words: Any, **options: Any) -> Engine:
    """Make an engine as the program does, that shares what it compiles."""
    return create_engine(*words, execution_options={"compiled_cache": SharedStatements()}, **options)


@contextmanager
def statements_shared() -> Iterator[None]:
    """Let databases that are opened share what they compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "create_engine", sharing_engine)
        yield


class KnownSchema:
    """Gives an empty SQLite file what all migrations make of it, by the statements that they end with."""

    def __init__(self, migrate: Callable[[Config, str], None]) -> None:
        """Take what runs them."""
        self._statements: list[str] = []
        self.migrate = migrate

    def __call__(self, config: Config, revision: str) -> None:
        """Stand in for `alembic.command.upgrade`."""
        connection: Connection = config.attributes["connection"]
        if connection.dialect.name != "sqlite" or revision != schema.HEAD or not _is_empty(connection):
            self.migrate(config, revision)
            return
        if self._statements:
            for statement in self._statements:
                connection.exec_driver_sql(statement)
            return
        self.migrate(config, revision)
        self._statements = _dump(connection)


def _is_empty(connection: Connection) -> bool:
    return connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0


def _dump(connection: Connection) -> list[str]:
    """Return the statements that make an SQLite file what the migrations leave: all that is made, and its version."""
    made = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite|_%' ESCAPE '|' ORDER BY rowid"
    )
    statements = [str(statement) for (statement,) in made]
    if statements:
        [version] = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars()
        statements.append(f"INSERT INTO alembic_version VALUES ('{version}')")
    return statements


_KNOWN = KnownSchema(command.upgrade)


@contextmanager
def schema_known() -> Iterator[None]:
    """Let new SQLite files get their schema without the migrations being run one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", _KNOWN)
        yield


@contextmanager
def schema_migrated() -> Iterator[None]:
    """Let them be run one by one after all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", _KNOWN.migrate)
        yield
