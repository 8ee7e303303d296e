"""A real dask scheduler and real workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from programs import free_port
from waiting import wait_until


@dataclass
class RunningCluster:
    address: str
    folder: Path
    environment: Mapping[str, str]
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        number = len(self.workers)
        words = (
            "worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", str(number),
        )  # fmt: skip
        started = _start(self.folder / f"worker{number}", {**self.environment, **environment}, *words)
        self.workers.append(started)
        return started

    def kill(self, number: int) -> None:
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait()


@contextmanager
def cluster(folder: Path, **environment: str) -> Iterator[RunningCluster]:
    port = free_port()
    everywhere = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    everywhere.pop("FUSERY_CLUSTER", None)
    words = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")
    scheduler = _start(folder / "scheduler", everywhere, *words)
    running = RunningCluster(f"tcp://127.0.0.1:{port}", folder, everywhere, scheduler)
    try:
        wait_until(lambda: scheduler.poll() is not None or _answers(port), "the scheduler does not start")
        yield running
    finally:
        for process in (*running.workers, scheduler):  # a worker without a scheduler waits for one
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _start(folder: Path, environment: Mapping[str, str], *words: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "dask", *words],
            cwd=folder,
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
