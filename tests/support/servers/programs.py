"""Programs of others that run as servers for as long as a block lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from waiting import PATIENCE


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
    """Start a program that logs to a file, wait until it is up, and end it and its children with a signal.

    It is not up while `is_up` returns something false or raises.
    """
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
            pytest.fail(f"{process.args}: {problem}\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
