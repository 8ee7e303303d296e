"""Whose prompts are read, and how long an owner rests for that."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from fusery.registry.server.fairness import Rests
from fusery.registry.server.places import Places
from fusery.registry.server.switching import Resident
from fusery.registry.server.writing import Job, Writing


def places(*present: str) -> Places:
    return Places(32, Rests(4, lambda: present))


def wait(at: Places, owner: str, count: int) -> list[Job]:
    jobs = [Job(None, [1], 1, owner=owner) for _ in range(count)]
    for job in jobs:
        at.wait(job)
    return jobs


def writing(job: Job) -> Writing:
    class Tokenizer:
        detokenizer: Any = None

    return Writing(job, Tokenizer())


def test_who_has_most_of_the_places_rests_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rests = Rests(4, lambda: ("acme", "other"))
    at = Places(32, rests)
    for job in wait(at, "acme", 9):
        list(at.begin())
        at.read(writing(job))
    wait(at, "other", 1)
    list(at.begin())

    def rest(owner: str) -> float:
        at.charge(owner, 0.25)  # what may be taken ahead
        at.charge(owner, 1.0)
        began = now[0]
        while rests.resting(owner):
            now[0] += 0.05
        return now[0] - began

    assert 4 < rest("other") < 6
    assert 7.5 < rest("acme") < 9.5


@pytest.mark.parametrize(
    ("present", "expected"), [(("acme", "other"), {"acme": 24, "other": 16}), (("acme",), {"acme": 48})]
)
def test_many_adapters_are_no_second_share(present: tuple[str, ...], expected: dict[str, int]) -> None:
    """The first answers of an owner's adapters go beyond its own share by half at most, and not beyond another's."""
    at = places(*present)
    for number in range(64):
        at.wait(Job(Resident(f"a{number}", None, number, 1, (), 0), [1], 1, owner="acme"))
        if "other" in present:
            at.wait(Job(None, [1], 1, owner="other"))
    running: Counter[str] = Counter()
    for _ in range(200):
        for job in at.begin():
            running[job.owner] += 1
            at.read(writing(job))
    assert running == expected
