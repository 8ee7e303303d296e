"""The same values stored in other ways, at random: each is found by an audit, or changes no answer of any command.

`FUSERY_SOAK=1` tries many times as many, other ones each time; `make soak` does.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from respelled_values import Respeller, Respelling, SqliteTarget, stock
from sqlalchemy import make_url

from fusery.cli.main import run
from fusery.registry import Registry, parsing
from fusery.registry.audit import Problem
from fusery.registry.catalog.paging import SORTABLE
from fusery.registry.database.sealing import OWNERS
from fusery.registry.errors import FuseryError
from fusery.registry.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

SOAK = bool(os.environ.get("FUSERY_SOAK"))
COUNT = 10_000 if SOAK else 40
SEED = random.SystemRandom().randrange(1 << 32) if SOAK else 20261126

_QUESTIONS = """
base list
base show tiny
list
list --task mail --tag Team=Mail
list --where "val_loss <= 0.5 and created_at >= 2026-01-01"
list --where "created_by = tester or rank > 4"
show mail@2
show course_rec@1
show mail#prod
history course_rec
diff course_rec@1 course_rec@2
compare mail@1 mail@2 course_rec@1
alias list
alias show mail#prod
alias show course_rec#prod
alias history mail#staging
alias history course_rec#prod
events
events --ref mail#prod
events --ref course_rec@1
events --action adapter.registered
lineage mail@2
lineage course_rec@2
lineage tiny
impact base:tiny
impact dataset:courses
impact adapter:mail@1
cache list
cache explain course_rec@2
fidelity course_rec@2
promote mail@2 prod --dry-run
promote mail@1 prod --dry-run
rules list
rules show mail#prod
signature list mail@2
trust list
deploy list --all
deploy list --ref mail@2
attest mail@2
identify files/unknown
identify files/mail1
gc --dry-run
db current
doctor
"""


class World:
    """A registry whose database is changed behind its back."""

    def __init__(self, registry: Registry, target: SqliteTarget) -> None:
        self.registry, self.target = registry, target
        events = registry.upkeep.log()
        moments = sorted({event["at"] for event in events})[:: max(1, len(events) // 5)]
        timed = (
            "alias show mail#staging --at",
            "alias show course_rec#prod --at",
            "events --since",
            "deploy list --at",
        )
        asked = [f"{words} {moment}" for words in timed for moment in moments]
        asked += [f"list --sort {field}{way}" for field in SORTABLE for way in ("", ":desc")]
        plain = _QUESTIONS.strip().splitlines()
        self._questions = [*plain, *(f"{words} --json" for words in [*plain, *asked])]
        for words in plain:
            if words.startswith("identify "):  # it keeps what it has read
                _ask(shlex.split(words))

    def found(self) -> Sequence[Problem] | None:
        """Return what an audit finds; None if the registry is refused as a whole."""
        try:
            with Registry(Workspace(self.registry.workspace.settings)) as opened:
                return opened.upkeep.audit_all().problems
        except FuseryError:
            return None

    def answers(self) -> Mapping[str, tuple[int, str]]:
        """Return what all commands say, to programs and most of them to people as well."""
        return {words: _ask(shlex.split(words)) for words in self._questions}


def _ask(words: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    # The free space of a disk is nobody's record.
    lines = [line for line in (out.getvalue() + err.getvalue()).splitlines() if "GiB free" not in line]
    return code, "\n".join(lines)


@pytest.fixture
def world(
    registry: Registry, database_url: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    stock(registry, tiny_base, tmp_path / "files")
    monkeypatch.setenv("FUSERY_HOME", str(registry.workspace.settings.home))
    monkeypatch.setenv("FUSERY_DATABASE_URL", database_url)
    monkeypatch.setenv("FUSERY_USER", "tester")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    yield World(registry, SqliteTarget(Path(make_url(database_url).database or "")))


def names(one: Respelling, problem: Problem) -> bool:
    """Tell whether a problem is about a respelled value: its column, its record, or its entry of the log."""
    if problem.subject.startswith(f"{one.table.name}.{one.column} "):
        return True
    if one.table.name == "event":
        return problem.subject == f"event {one.row['seq']}"
    if one.table.name not in OWNERS:
        return problem.code == "row_forbidden" and problem.subject.startswith(f"{one.table.name} ")
    kind, column = OWNERS[one.table.name]
    row = f"row {one.row[column]} of {kind.table.name}"
    return problem.code.startswith("record_") and (
        problem.message.startswith((row, f"row {one.row[column]} of {kind.name}"))
        or problem.subject.startswith(row)
    )


def test_respelled_values_are_found_or_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ages grow while the test goes on.
    age, now = parsing.age, datetime.now(UTC)
    monkeypatch.setattr(parsing, "age", lambda moment: age(moment, now=now))
    respeller = Respeller(world.target, random.Random(SEED))
    assert world.found() == []
    before = world.answers()
    tried = silent = 0
    while tried < COUNT:
        one = respeller.draw()
        if not world.target.write(one, one.new):
            continue  # the database refuses it
        tried += 1
        problems = world.found()
        if problems is not None and not any(names(one, problem) for problem in problems):
            silent += 1
            assert world.answers() == before, f"seed {SEED}: {one}"
        world.target.write(one, one.row[one.column])
    assert world.found() == []
    assert world.answers() == before, "what commands say is not settled"
    assert silent < tried / 10 + 2, "hardly any is found"
