"""A simulated year of aliases: random moves, removals, rollbacks, withdrawals and lifts through the real use cases.

What should be true at any moment is written down beside it, by rules of its own: nothing here asks the registry.

    year = Year(registry, stock(registry, folder, base), clock, seed=7)
    year.live(10_000)
    assert registry.aliases.show(alias, at=text) == year.answer(alias, moment)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.database import Database, engine
from fusery.registry.errors import BadInputError

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = ("courses", "mail", "search")
NAMES = ("prod", "staging", "canary")
VERSIONS = 6
"""Of each task."""

MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)


@dataclass(slots=True)
class Clock:
    now: datetime = BEGIN

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Database, "utcnow", staticmethod(lambda session: self.now))
        monkeypatch.setattr(engine, "utcnow", lambda session: self.now)


def stock(registry: Registry, folder: Path, base: Path) -> dict[str, list[str]]:
    """Register versions of every task on a base; return their names by task."""
    registry.bases.add(base, name="tiny")
    names: dict[str, list[str]] = {task: [] for task in TASKS}
    for number in range(VERSIONS):
        adapter = tiny_models.make_adapter(folder / f"{number}", base, rank=1, num_layers=1, seed=number)
        for task in TASKS:
            names[task].append(registry.adapters.register(adapter, base="tiny", task=task)["name"])
    return names


class Year:
    """A year in the life of a registry with some adapters, and what should be true of it."""

    def __init__(
        self, registry: Registry, versions: dict[str, list[str]], clock: Clock, *, seed: int
    ) -> None:
        self._registry, self._clock, self._random = registry, clock, Random(seed)
        self._versions = versions
        self.aliases = [f"{task}#{name}" for task in sorted(versions) for name in NAMES]
        self._moves: dict[str, list[tuple[datetime, str | None, str]]] = {alias: [] for alias in self.aliases}
        self._holders: dict[str, list[str]] = {alias: [] for alias in self.aliases}
        self._yanks: defaultdict[str, list[tuple[datetime, bool]]] = defaultdict(list)
        self.boundaries: list[tuple[datetime, str]] = []
        """When something happened, and an alias that it could have to do with."""

    def live(self, events: int) -> None:
        """Let so many things happen, spread over the year, of which the first are that every alias is made."""
        for alias in self.aliases:
            self._set(alias, self._versions[alias.partition("#")[0]][0], "first")
        mean = (END - BEGIN).total_seconds() / events
        acts = (self._set, self._roll_back, self._remove, self._yank)
        while len(self.boundaries) < events:
            short = self._random.choices((timedelta(0), MICROSECOND, SECOND, None), (10, 5, 10, 75))[0]
            if short is None:
                short = timedelta(seconds=self._random.expovariate(0.75 / mean))
            self._clock.now += short
            alias = self._random.choice(self.aliases)
            adapter = self._random.choice(self._versions[alias.partition("#")[0]])
            act = self._random.choices(acts, (55, 12, 8, 25))[0]
            act(alias, adapter, f"thing {len(self.boundaries)}")

    def answer(self, alias: str, at: datetime) -> dict[str, Any]:
        moves = [move for move in self._moves[alias] if move[0] <= at]
        since, adapter, reason = moves[-1] if moves else (None, None, None)
        return {
            "alias": alias,
            "adapter": adapter,
            "yanked": None if adapter is None else self._is_yanked(adapter, at),
            "at": at.isoformat(),
            "since": None if since is None else since.isoformat(),
            "reason": reason,
        }

    def questions(self, random: int, boundaries: int) -> Iterator[tuple[str, datetime]]:
        """Yield what to ask: so many random moments, and at, just before and a second before what happened."""
        for _ in range(random):
            second = self._random.randrange(int((END - BEGIN).total_seconds()))
            moment = BEGIN + timedelta(seconds=second, microseconds=self._random.choice((0, 0, 999_999, 1)))
            yield self._random.choice(self.aliases), moment
        for at, alias in self._random.sample(self.boundaries, boundaries):
            for moment in (at, at - MICROSECOND, at - SECOND):
                yield alias, moment

    def _set(self, alias: str, adapter: str, reason: str) -> None:
        name = alias.partition("#")[2]
        if self._is_yanked(adapter, self._clock.now):
            with pytest.raises(BadInputError, match="yanked"):
                self._registry.aliases.set(name, adapter, reason=reason)
            return
        moved = self._registry.aliases.set(name, adapter, reason=reason)["moved"]
        assert moved == (self._holder(alias) != adapter)
        if moved:
            self._went(alias, adapter, reason)

    def _roll_back(self, alias: str, _: str, reason: str) -> None:
        holders = self._holders[alias]
        if len(holders) < 2 or self._is_yanked(holders[-2], self._clock.now):
            with pytest.raises(BadInputError):
                self._registry.aliases.roll_back(alias, reason=reason)
            return
        done = self._registry.aliases.roll_back(alias, reason=reason)
        assert (done["to"], done["moved"]) == (holders[-2], True)
        self._went(alias, holders[-2], reason, back=True)

    def _remove(self, alias: str, _: str, reason: str) -> None:
        if self._holder(alias) is not None:
            assert self._registry.aliases.remove(alias, reason=reason)["moved"]
            self._went(alias, None, reason)

    def _yank(self, alias: str, adapter: str, reason: str) -> None:
        """Yank an adapter, or lift the yank; either changes nothing where it is so already."""
        adapter = self._holder(alias) or adapter
        was = self._is_yanked(adapter, self._clock.now)
        lifts = was == (self._random.random() < 0.9)
        act = self._registry.adapters.unyank if lifts else self._registry.adapters.yank
        assert act(adapter, reason=reason)["changed"] is (was is lifts)
        if was is lifts:
            self._yanks[adapter].append((self._clock.now, not lifts))
            self.boundaries.append((self._clock.now, alias))

    def _went(self, alias: str, to: str | None, reason: str, *, back: bool = False) -> None:
        self._moves[alias].append((self._clock.now, to, reason))
        self.boundaries.append((self._clock.now, alias))
        holders = self._holders[alias]
        if back:
            holders.pop()
        elif to is not None and holders[-1:] != [to]:
            holders.append(to)

    def _holder(self, alias: str) -> str | None:
        return self._moves[alias][-1][1] if self._moves[alias] else None

    def _is_yanked(self, adapter: str, at: datetime) -> bool:
        return next((yanked for moment, yanked in reversed(self._yanks[adapter]) if moment <= at), False)
