"""A short sweep of faults on each stack; `make soak` runs the long one and prints the counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from faults.points import FAULTS, KILL, SERVER, Tally
from faults.sites import DISK, SERVERS, stack_of
from faults.sweep import Sweep, sweeping, try_all
from faults.tracing import find_strace

pytestmark = [pytest.mark.timing, pytest.mark.slow]
KILLED = {
    DISK: ("register", "gc", "backup", "push to a server"),
    SERVERS: ("fuse",),
}
INTERRUPTED = {DISK: ("register", "gc"), SERVERS: ()}
FAILED = {DISK: ("fuse",), SERVERS: ("fuse",)}


@pytest.fixture(scope="module", params=[DISK, SERVERS])
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    folder: Path = tmp_path_factory.mktemp("sweep")
    try:
        with stack_of(request.param, folder) as stack, sweeping(stack, folder) as (made,):
            yield made
    except LookupError as error:
        pytest.skip(str(error))


def test_a_command_that_fails_loses_nothing_and_succeeds_again(sweep: Sweep) -> None:
    name, random, tally = sweep.stack.name, Random("the same points each time"), Tally()
    points = []
    for command in KILLED[name]:
        kills = 1 if name == DISK else 2  # of two, one is in the first half of the time
        points += sweep.points(command, random, kills=kills, interrupts=int(command in INTERRUPTED[name]))
    if name == DISK:
        points += sweep.points("push to a server", random, victim=SERVER, kills=1)
    try:
        for command in FAILED[name] if find_strace() else ():
            # After a lock that failed, SQLite and fusery wait for a minute or three.
            found = sweep.points(command, random, calls=4)
            points += [point for point in found if point.call and point.call.name != "fcntl"][:2]
    except PermissionError:
        pass  # nothing can be traced here
    complaints = []
    for result in try_all([sweep], points):
        tally.add(name, result)
        complaints += [f"{result.point}: {complaint}" for complaint in result.complaints]
    print(f"\n{tally.table()}")  # noqa: T201  pytest shows it where something does not hold
    assert complaints == []
    assert tally.of(KILL), "no run was hit: the instants were too late"
    if any(point.call for point in points):
        assert tally.of(*FAULTS), "no call was hit: the command makes others than it did"
