"""What the main commands ask of the database: never more than before records were typed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from sqlalchemy import Engine, event

from fusery.registry import tables

# Commands one after the other, on a registry with a base and two adapters, and how many statements each may send.
# Less is better: lower a number when a command asks less.
BEFORE = [
    ("list", 15),
    ("show course_rec@2", 24),
    ("register third --base tiny --task course_rec", 102),
    ("register third --base tiny --task course_rec", 86),
    ("alias set course_rec@2 prod", 27),
    ("diff course_rec@1 course_rec@2 --weights", 72),
    ("compare course_rec", 70),
    ("fuse course_rec@2", 103),
    ("fuse course_rec@2", 37),
    ("show course_rec@2", 31),
    ("materialize course_rec@2 bundle", 93),
    ("identify first", 48),
    ("report course_rec --json", 471),
    ("audit", 814),
    ("amend course_rec@1 --note new --reason known", 27),
    ("yank course_rec@1 --reason bad", 28),
    ("push course_rec@2 --to other", 886),
    ("backup kept.tar", 80),
    ("doctor", 19),
]


TABLES = 34
"""How many tables there were at c9c5869."""

PER_TABLE = {"backup kept.tar": 1, "report course_rec --json": 22, "audit": 21}
"""How many statements a command sends about each table that there is, whatever is in it: its rows, or its definition."""


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
def test_no_command_asks_more_than_before(stocked: Fusery, tmp_path: Path, tiny_base: Path) -> None:
    tiny_models.make_adapter(tmp_path / "third", tiny_base, seed=3)
    more = []
    added = len(tables.metadata.tables) - TABLES
    for words, before in BEFORE:
        with _sent() as statements:
            ran = stocked(*words.split())
        assert ran.code == 0, (words, ran.err)
        if len(statements) > before + added * PER_TABLE.get(words, 0):
            more.append((words, before, len(statements)))
    assert more == []


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
