"""Clients and servers that are killed in the middle of an act; `make soak` tries more points of more acts."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from faults.acts import ACTS, CLIENT, SERVER, acting
from faults.points import KILL, Point, Tally, at_instants
from faults.sites import DISK, stack_of

pytestmark = pytest.mark.timing

SOAK = "FUSERY_SOAK" in os.environ
SHORT = (
    ("push to a server", CLIENT),
    ("push to a server", SERVER),
    ("backup", CLIENT),
)
"""Acts in the short run, and the process that is killed."""
LONG = [
    (name, victim) for name, act in ACTS.items() for victim in ((CLIENT, SERVER) if act.serves else (CLIENT,))
]


@pytest.mark.slow
def test_killed_acts_lose_nothing_and_succeed_again(tmp_path: Path) -> None:
    random, tally, points, complaints = Random("the same each time"), Tally(), list[Point](), list[str]()
    with stack_of(DISK, tmp_path) as stack, acting(stack, tmp_path) as acts:
        for name, victim in LONG if SOAK else SHORT:
            points += at_instants(f"{name}: {victim} killed", KILL, 90 if SOAK else 1, random)
        for point in points:
            result = acts.try_point(point)
            tally.add(DISK, result)
            complaints += [f"{point}: {complaint}" for complaint in result.complaints]
    print(f"\n{tally.table()}")  # noqa: T201  pytest shows it where something does not hold
    assert complaints == []
