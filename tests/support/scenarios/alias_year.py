"""A simulated year of aliases: random moves, removals, rollbacks, withdrawals and lifts through the real use cases.

What should be true at any moment is written down beside it, by rules of its own: nothing here asks the registry.

    year = Year(registry, stock(registry, folder, base), clock, seed=7)
    year.live(10_000)
    assert registry.aliases.show(alias, at=text) == year.answer(alias, moment)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Held:
    """What is known of one alias: when it went where, and who could get it back."""

    moments: list[datetime] = field(default_factory=list)
    moves: list[tuple[str | None, str]] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)

    @property
    def now(self) -> str | None:
        return self.moves[-1][0] if self.moves else None

    def go(self, at: datetime, to: str | None, reason: str, *, back: bool = False) -> None:
        self.moments.append(at)
        self.moves.append((to, reason))
        if to is None:
            return
        if back and self.holders[-2:-1] == [to]:
            self.holders.pop()
        elif self.holders[-1:] != [to]:
            self.holders.append(to)


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
        self.aliases = {f"{task}#{name}": Held() for task in versions for name in NAMES}
        self._withdrawn: dict[str, list[list[datetime | None]]] = {}
        self.boundaries: list[tuple[datetime, str]] = []
        """When something happened, and an alias that it could have to do with."""

    def live(self, events: int) -> None:
        """Let so many things happen, spread over the year, of which the first are that every alias is made."""
        for alias in self.aliases:
            self._set(alias, self._versions[alias.partition("#")[0]][0], "first")
        mean = (END - BEGIN).total_seconds() / events
        while len(self.boundaries) < events:
            self._clock.now += self._pause(mean)
            self._happen(f"thing {len(self.boundaries)}")

    def answer(self, alias: str, at: datetime) -> dict[str, Any]:
        held = self.aliases[alias]
        count = bisect_right(held.moments, at)
        adapter, reason = held.moves[count - 1] if count else (None, None)
        return {
            "alias": alias,
            "adapter": adapter,
            "yanked": None if adapter is None else self._is_withdrawn(adapter, at),
            "at": at.isoformat(),
            "since": held.moments[count - 1].isoformat() if count else None,
            "reason": reason,
        }

    def questions(self, random: int, boundaries: int | None = None) -> Iterator[tuple[str, datetime]]:
        """Yield what to ask: so many random moments, and at, just before and a second before what happened."""
        names = sorted(self.aliases)
        for _ in range(random):
            second = self._random.randrange(int((END - BEGIN).total_seconds()))
            moment = BEGIN + timedelta(seconds=second, microseconds=self._random.choice((0, 0, 999_999, 1)))
            yield self._random.choice(names), moment
        chosen = self.boundaries
        if boundaries is not None:
            chosen = self._random.sample(chosen, boundaries)
        for at, alias in chosen:
            for moment in (at, at - MICROSECOND, at - SECOND):
                yield alias, moment

    def _pause(self, mean: float) -> timedelta:
        short = self._random.choices((timedelta(0), MICROSECOND, SECOND, None), (10, 5, 10, 75))[0]
        return short if short is not None else timedelta(seconds=self._random.expovariate(0.75 / mean))

    def _happen(self, reason: str) -> None:
        alias = self._random.choice(sorted(self.aliases))
        holder, versions = self.aliases[alias].now, self._versions[alias.partition("#")[0]]
        kind = self._random.choices(("set", "roll back", "remove", "yank or lift"), (55, 12, 8, 25))[0]
        adapter = self._random.choice(versions)
        if kind == "set":
            self._set(alias, adapter, reason)
        elif kind == "roll back":
            self._roll_back(alias, reason)
        elif kind == "remove":
            self._remove(alias, reason)
        else:
            adapter = holder if holder and self._random.random() < 0.7 else adapter
            lifts = self._is_withdrawn(adapter, self._clock.now) == (self._random.random() < 0.9)
            self._yank(alias, adapter, reason, lifts=lifts)

    def _set(self, alias: str, adapter: str, reason: str) -> None:
        name = alias.partition("#")[2]
        if self._is_withdrawn(adapter, self._clock.now):
            with pytest.raises(BadInputError, match="yanked"):
                self._registry.aliases.set(name, adapter, reason=reason)
            return
        moved = self._registry.aliases.set(name, adapter, reason=reason)["moved"]
        assert moved == (self.aliases[alias].now != adapter)
        if moved:
            self._went(alias, adapter, reason)

    def _roll_back(self, alias: str, reason: str) -> None:
        held = self.aliases[alias]
        if not held.moves:
            return
        if len(held.holders) < 2 or self._is_withdrawn(held.holders[-2], self._clock.now):
            with pytest.raises(BadInputError):
                self._registry.aliases.roll_back(alias, reason=reason)
            return
        done = self._registry.aliases.roll_back(alias, reason=reason)
        assert (done["to"], done["moved"]) == (held.holders[-2], True)
        self._went(alias, held.holders[-2], reason, back=True)

    def _remove(self, alias: str, reason: str) -> None:
        if self.aliases[alias].now is None:
            return
        assert self._registry.aliases.remove(alias, reason=reason)["moved"]
        self._went(alias, None, reason)

    def _yank(self, alias: str, adapter: str, reason: str, *, lifts: bool) -> None:
        """Yank an adapter, or lift the yank; either changes nothing where it is so already."""
        was = self._is_withdrawn(adapter, self._clock.now)
        act = self._registry.adapters.unyank if lifts else self._registry.adapters.yank
        assert act(adapter, reason=reason)["changed"] is (was is lifts)
        if was is lifts:
            periods = self._withdrawn.setdefault(adapter, [])
            if lifts:
                periods[-1][1] = self._clock.now
            else:
                periods.append([self._clock.now, None])
            self.boundaries.append((self._clock.now, alias))

    def _went(self, alias: str, to: str | None, reason: str, *, back: bool = False) -> None:
        self.aliases[alias].go(self._clock.now, to, reason, back=back)
        self.boundaries.append((self._clock.now, alias))

    def _is_withdrawn(self, adapter: str, at: datetime) -> bool:
        return any(
            begin is not None and begin <= at and (end is None or at < end)
            for begin, end in self._withdrawn.get(adapter, ())
        )
