"""Programs of others that run as servers for as long as a block lasts."""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from waiting import PATIENCE


def template_processes(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Return those that run under a process; without one, under the test's own."""
    found = []
    for child in (parent or psutil.Process()).children():
        try:
            if "program.py" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:  # also of one that has ended and was not waited for
            continue
    return found


def renders(parent: psutil.Process) -> bool:
    return any(child.cpu_times().user > 0.5 for child in template_processes(parent))


FIRST, LAST, EACH = 10_000, 20_000, 100
"""Each process has a hundred of these.  SeaweedFS adds 10,000 to some, and from 32,768 on ports are for clients."""


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int, *, and_higher: int = 0) -> list[int]:
    """Return ports at which nobody listens, nor at the ports that are so many higher."""
    candidates = itertools.islice(_ports(), EACH)
    free = (port for port in candidates if all(map(_is_free_port, {port, port + and_higher})))
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


def _is_free_port(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


CONTEXT = multiprocessing.get_context("forkserver")
"""For processes that use a registry; what is to be said of starting one takes one that is spawned."""

CONTEXT.set_forkserver_preload(
    [
        "fusery.registry.registration.register",
        "fusery.registry.fusion.fuse",
        "fusery.registry.bundles.materialize",
        "fusery.registry.bundles.targets.model",
        "fusery.registry.upkeep",
        "fusery.registry.upkeep",
        "fusery.registry.database.schema",
        "alembic.autogenerate",
        "numpy.random",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        # What stores import: a pytest process has one server for all.
        "obstore.fsspec",
        "botocore.session",
        "sshfs.spec",
    ]
)


MAIN = "from fusery.cli.main import main; main()"


@contextmanager
def running(
    home: Path, *words: str, main: str = MAIN, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start it, and yield the process and its first line, or what it printed as JSON."""
    with interrupts():
        process = subprocess.Popen(
            [sys.executable, "-c", main, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"FUSERY_REGISTRY": str(home), "BROWSER": "true"} | environment,
        )
    try:
        assert process.stdout is not None
        lines = process.stdout.readline()
        while "--json" in words and lines and not lines.endswith("}\n"):
            lines += process.stdout.readline()
        yield process, lines
    finally:
        process.kill()
        process.communicate()


@contextmanager
def interrupts(how: Any = signal.default_int_handler) -> Iterator[None]:
    """Start processes that can be interrupted; with `SIG_IGN`, such as a shell starts in the background."""
    before = signal.signal(signal.SIGINT, how)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def running_program(
    command: Sequence[str | Path],
    log: Path,
    is_up: Callable[[], object],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    how: signal.Signals = signal.SIGKILL,
    patience: float = PATIENCE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program that logs to a file, wait until it is up, and end it and its children with a signal."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
            cwd=folder,
            start_new_session=True,
        )
    try:
        _wait(process, log, is_up, time.monotonic() + patience)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[], object], end: float) -> None:
    while True:
        problem = "it does not answer"
        try:
            if is_up():
                return
        except Exception as error:  # noqa: BLE001 -- each client has errors of its own for this
            problem = str(error)
        if process.poll() is not None or time.monotonic() > end:
            import pytest  # a quarter of a second in each child of a test that imports this module

            pytest.fail(f"{process.args}: {problem}\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
