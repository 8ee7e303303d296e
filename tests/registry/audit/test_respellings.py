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
from respelled_values import PostgresTarget, Respeller, Respelling, SqliteTarget, Target, stock
from sqlalchemy import make_url

from fusery.cli.main import run
from fusery.registry import Registry, parsing
from fusery.registry.audit import Problem, checks
from fusery.registry.catalog.paging import SORTABLE
from fusery.registry.database.sealing import OWNERS
from fusery.registry.errors import FuseryError
from fusery.registry.workspace import Workspace

pytestmark = pytest.mark.slow

SOAK = bool(os.environ.get("FUSERY_SOAK"))
COUNT = 10_000 if SOAK else 100
SEED = random.SystemRandom().randrange(1 << 32) if SOAK else 20261126
TOGETHER = 16
"""Values that one audit looks at, each of another column and another record, so that what it says can be told apart."""

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
    """A registry whose database is changed behind its back.

    Attributes:
        registry: it.
        target: its stored values.
    """

    def __init__(self, registry: Registry, target: Target) -> None:
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

    def found(self, *, definitions: bool = False) -> Sequence[Problem] | None:
        """Return what an audit finds; None if the registry is refused as a whole.

        Args:
            definitions: it looks at those of the tables too, which no value changes: on PostgreSQL it makes them all anew.
        """
        try:
            with (
                Registry(Workspace(self.registry.workspace.settings)) as opened,
                pytest.MonkeyPatch.context() as patch,
            ):
                if not definitions:
                    patch.setattr(checks, "differences", lambda database: [])
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
    path = make_url(database_url).database if database_url.startswith("sqlite") else None
    yield World(registry, SqliteTarget(Path(path)) if path else PostgresTarget(database_url))


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


def apart(some: Sequence[Respelling]) -> Iterator[list[Respelling]]:
    """Yield respellings in groups that have each value once at most."""
    left = list(some)
    while left:
        group = {(one.table.name, one.column, str(one.number)): one for one in left}
        yield list(group.values())
        left = [one for one in left if one not in group.values()]


def taken_of(target: Target, some: Sequence[Respelling]) -> list[Respelling]:
    """Return the respellings that the database does not refuse, alone."""
    taken = target.write([(one, one.new) for one in some])
    found = [one for one, is_taken in zip(some, taken, strict=True) if is_taken]
    target.write([(one, one.row[one.column]) for one in reversed(found)])
    return found


def drawn(respeller: Respeller) -> list[Respelling]:
    """Return respellings that do not get into each other's way."""
    found: list[Respelling] = []
    taken: set[object] = set()
    for one in (respeller.draw() for _ in range(TOGETHER)):
        kind, column = OWNERS.get(one.table.name, (None, None))
        record = (kind.name, one.row[column]) if kind and column else (one.table.name, str(one.number))
        if not {record, (one.table.name, one.column)} & taken:
            taken |= {record, (one.table.name, one.column)}
            found.append(one)
    return found


def problems_of(world: World, some: Sequence[Respelling]) -> tuple[bool, Sequence[Problem] | None]:
    """Respell values at once, audit, and take all back; return whether all were taken, and what the audit says."""
    taken = world.target.write([(one, one.new) for one in some])
    problems = world.found()
    back = [one for one, is_taken in zip(some, taken, strict=True) if is_taken]
    world.target.write([(one, one.row[one.column]) for one in reversed(back)])
    return all(taken), problems


def silent_among(world: World, some: Sequence[Respelling]) -> list[Respelling]:
    """Return the values of which an audit of all says nothing; by halves, if the registry is refused as a whole."""
    _, problems = problems_of(world, some)
    if problems is not None:
        return [one for one in some if not any(names(one, problem) for problem in problems)]
    if len(some) == 1:
        return []
    half = len(some) // 2
    return silent_among(world, some[:half]) + silent_among(world, some[half:])


def silent_alone(world: World, some: Sequence[Respelling]) -> list[Respelling]:
    """Return which values no audit would say anything of if each were the only one, by halves.

    If all are there and an audit has nothing to say at all, it says nothing of any: most of them are found at once.
    """
    if len(some) <= 1:
        return silent_among(world, some)
    if problems_of(world, some) == (True, []):
        return list(some)
    half = len(some) // 2
    return silent_alone(world, some[:half]) + silent_alone(world, some[half:])


def changed_answers(
    world: World, some: Sequence[Respelling], before: Mapping[str, tuple[int, str]]
) -> list[str]:
    """Return what commands answer otherwise when values are respelled, by halves."""
    world.target.write([(one, one.new) for one in some])
    after = world.answers()
    world.target.write([(one, one.row[one.column]) for one in reversed(some)])
    wrong = [words for words, answer in after.items() if answer != before[words]]
    if len(some) <= 1 or not wrong:
        return [f"{one}: {words}" for one in some for words in wrong]
    half = len(some) // 2
    return changed_answers(world, some[:half], before) + changed_answers(world, some[half:], before)


def test_respelled_values_are_found_or_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ages grow while the test goes on.
    age, now = parsing.age, datetime.now(UTC)
    monkeypatch.setattr(parsing, "age", lambda moment: age(moment, now=now))
    respeller = Respeller(world.target, random.Random(SEED))
    assert world.found(definitions=True) == []
    before = world.answers()
    tried = 0
    silent: list[Respelling] = []
    while tried < COUNT:
        taken = taken_of(world.target, drawn(respeller))
        tried += len(taken)
        silent += silent_among(world, taken)
    silent = [one for together in apart(silent) for one in silent_alone(world, together)]
    for together in apart(silent):
        assert changed_answers(world, together, before) == [], f"seed {SEED}"
    assert world.found(definitions=True) == []
    assert world.answers() == before, "what commands say is not settled"
    assert len(silent) < tried / 10, "hardly any is found"
