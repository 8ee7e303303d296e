"""A short sweep of faults on each stack; `make soak` runs the long one and prints the counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from faults.points import COLUMNS, CTRL_C, KILL, Point, Tally, at_calls, at_instants
from faults.sites import DISK, SERVERS, stack_of
from faults.sweep import Sweep, sweeping, try_all
from faults.tracing import find_strace

pytestmark = pytest.mark.timing

SEED = "the same points each time"
MAIN = ("register", "fuse", "materialize", "gc", "push")
"""Commands that are killed in the short run; `make soak` has all."""

INTERRUPTED = ("register", "gc")


@pytest.fixture(scope="module", params=[DISK, SERVERS])
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    folder: Path = tmp_path_factory.mktemp("sweep")
    try:
        with stack_of(request.param, folder) as stack, sweeping(stack, folder) as (made,):
            yield made
    except LookupError as error:
        pytest.skip(str(error))


def require_nothing_wrong(sweep: Sweep, points: list[Point]) -> Tally:
    tally, complaints = Tally(), []
    for result in try_all([sweep], points):
        tally.add(sweep.stack.name, result)
        complaints += [f"{result.point}: {complaint}" for complaint in result.complaints]
    print(f"\n{tally.table()}")  # noqa: T201  pytest shows it where something does not hold
    assert complaints == []
    return tally


@pytest.mark.slow
def test_killed_and_interrupted_at_instants(sweep: Sweep) -> None:
    random, points = Random(SEED), []
    for command in MAIN if sweep.stack.name == DISK else ("fuse", "push"):
        points += at_instants(command, KILL, 1, random)
        if sweep.stack.name == DISK and command in INTERRUPTED:
            points += at_instants(command, CTRL_C, 1, random)
    tally = require_nothing_wrong(sweep, points)
    assert tally.of(KILL), "no run was hit: the instants were too late"


@pytest.mark.slow
def test_system_calls_that_fail(sweep: Sweep) -> None:
    if find_strace() is None:
        pytest.skip("strace is not installed")
    random, points = Random(SEED), []
    try:
        for command in ("register", "fuse") if sweep.stack.name == DISK else ("fuse",):
            points += at_calls(command, sweep.calls(command), 2, random)
    except PermissionError as error:
        pytest.skip(str(error))
    tally = require_nothing_wrong(sweep, points)
    assert tally.of(*COLUMNS[:4]), "no call was hit: the command makes others than it did"
