"""Running a command and watching it: wall time, processor time and peak anonymous memory.

Anonymous memory is RssAnon of the process and its children, sampled from /proc every 5 ms (Linux): what a file mapped
into memory or the page cache holds is not counted, since the system can take it back.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE = 0.005


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command needed.

    Attributes:
        wall: seconds.
        cpu: processor seconds.
        anonymous: bytes of anonymous memory at the peak.
    """

    wall: float
    cpu: float
    anonymous: int


def measure(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command once.

    Args:
        command: what to run.
        environment: what to add to this process's own.

    Raises:
        SystemExit: it failed; says what it wrote to stderr.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
        memory = _Memory(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = memory.stop()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{command[0]} failed:\n{errors.read().decode(errors='replace')[-2000:]}")
    return Usage(seconds, usage.ru_utime + usage.ru_stime, peak)


class _Memory:
    """Samples the anonymous memory of a process and its children, and keeps the peak."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._stopped = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(_SAMPLE):
            self._peak = max(self._peak, sum(_anonymous(pid) for pid in [self._pid, *_children(self._pid)]))


def _children(pid: int) -> list[int]:
    try:
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return direct + [grandchild for child in direct for grandchild in _children(child)]


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return int(line.split()[1]) * 1024
