"""Following the log: what is there, and each entry that comes, once and in order."""

from __future__ import annotations

import threading

import pytest

from fusery.registry import Registry
from fusery.registry.catalog.following import follow
from fusery.registry.database import events
from fusery.registry.errors import UnknownReferenceError

pytestmark = pytest.mark.timing


def happen(registry: Registry, *actions: str) -> None:
    with registry.workspace.database.write() as session:
        for action in actions:
            kind = action.partition(".")[0]
            events.record(session, action=action, kind=kind, subject="x", detail={}, actor="ann")


def test_entries_are_yielded_as_they_come(registry: Registry) -> None:
    happen(registry, "base.added")
    stop = threading.Event()
    coming = follow(registry.upkeep, stop=stop, pause=0.01)
    assert [next(coming).action for _ in range(2)] == ["registry.made", "base.added"]
    happen(registry, "adapter.signed", "alias.moved")
    happen(registry, "adapter.yanked")
    assert [next(coming).action for _ in range(3)] == ["adapter.signed", "alias.moved", "adapter.yanked"]
    stop.set()
    assert list(coming) == []


def test_only_what_was_asked_for_is_yielded(registry: Registry) -> None:
    happen(registry, *["base.added"] * 3)
    coming = follow(registry.upkeep, action="base.added", limit=1, pause=0.01)
    assert next(coming).seq == 4
    happen(registry, "adapter.signed", "base.added", "adapter.signed")
    assert next(coming).seq == 6
    happen(registry, "base.added")
    assert next(coming).seq == 8
    coming.close()
    with pytest.raises(UnknownReferenceError):
        next(registry.upkeep.follow(reference="nowhere"))


def test_what_is_written_at_the_same_time_is_yielded_once(registry: Registry) -> None:
    stop, count = threading.Event(), 60

    def write() -> None:
        for _ in range(count):
            happen(registry, "base.added")

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    for entry in follow(registry.upkeep, stop=stop, pause=0.001):
        found.append(entry.seq)
        if len(found) == count + 1:
            stop.set()
    thread.join()
    assert found == list(range(1, count + 2))
