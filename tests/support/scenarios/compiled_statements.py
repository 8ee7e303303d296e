"""Statements that tests compile once for all engines that are set up alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, util
from sqlalchemy.engine.interfaces import Dialect

from fusery.registry.database import engine

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
        return _COMPILED.get(self._shared(key))

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "create_engine", sharing_engine)
        yield
