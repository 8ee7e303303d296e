"""What registering asks of the database does not grow with what is on record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from sqlalchemy import Engine, event


@contextmanager
def _sent() -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.slow
def test_what_registering_asks_does_not_grow_with_the_bases(
    stocked: Fusery, tmp_path: Path, tiny_base: Path
) -> None:
    counts = []
    for turn in range(2):
        folder = tiny_models.make_adapter(tmp_path / f"new{turn}", tiny_base, seed=10 + turn)
        with _sent() as statements:
            assert stocked("register", folder, "--base", "tiny", "--task", f"task{turn}").code == 0
        counts.append(len(statements))
        for number in range(2):
            other = tiny_models.make_base(tmp_path / f"base{number}", seed=20 + number)
            assert stocked("base", "add", other, "--name", f"other{number}").code == 0
    assert counts[1] <= counts[0]
