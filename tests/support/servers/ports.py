"""Ports for servers of tests, which no other process of tests has, and which the system gives to no client."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST, LAST, EACH = 10_000, 20_000, 100
"""Each process has a hundred of these.  SeaweedFS adds 10,000 to some, and from 32,768 on ports are for clients."""


def free_port() -> int:
    """Return a port of this machine at which nobody listens."""
    return free_ports(1)[0]


def free_ports(count: int, *, and_higher: int = 0) -> list[int]:
    """Return ports at which nobody listens, nor at the ports that are so many higher."""
    candidates = itertools.islice(_ports(), EACH)
    free = (port for port in candidates if all(map(_is_free, {port, port + and_higher})))
    found = list(itertools.islice(free, count))
    assert len(found) == count, "no free ports"
    return found


@cache
def _ports() -> Iterator[int]:
    """Return the ports of this process, again and again; a lock that lasts as long as the process keeps others away."""
    for first in range(FIRST, LAST, EACH):
        file = os.open(
            Path(tempfile.gettempdir(), f"fusery-ports-{first}.lock"), os.O_RDWR | os.O_CREAT, 0o666
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
        else:
            return itertools.cycle(range(first, first + EACH))
    raise AssertionError("a hundred processes of tests have all ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
