"""Processes in which commands are watched: each is a fork of one that has imported what they import, and done nothing.

An audit hook sees every program that is started and every connection that is made.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from faults.forks import Job, Nursery, run_all, run_command

_EVENTS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "socket.connect",
    "socket.getaddrinfo", "subprocess.Popen",
})  # fmt: skip
_HEAVY = ("asyncio", "obstore.fsspec", "psycopg", "asyncssh")
"""What commands import besides for stores and databases of other kinds."""

_PORT = re.compile(r"\('[^']*', (\d+)[,)]")


@dataclass(frozen=True, slots=True)
class Watched:
    code: int
    out: str
    err: str
    ports: frozenset[int]
    events: tuple[tuple[str, str], ...]


def surroundings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("FUSERY_", "_FUSERY"))}


def _learn(homes: Path) -> None:
    from fusery.cli.main import run

    home = str(homes / "home")
    assert run(["--registry", home, "pull", "course_rec@1", "--from", str(homes / "other")]) == 0
    assert run(["--registry", home, "push", "own_task@1", "--to", str(homes / "other")]) == 0
    assert run(["--registry", str(homes / "new"), "admin", "restore", str(homes / "saved")]) == 0


def _watch(words: Sequence[str], log: Path) -> None:
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def hook(event: str, arguments: Any) -> None:
        if event in _EVENTS:
            os.write(target, (json.dumps([event, repr(arguments)[-400:]]) + "\n").encode())

    sys.addaudithook(hook)
    run_command(words)


class Processes:
    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self._folder, self._nursery, self._numbers = folder, nursery, count()

    def run(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Watched:
        log = self._folder / f"{next(self._numbers)}.events"
        job = Job(_watch, (list(words), log), environment, folder, self._folder / "said")
        code = self._nursery.run(job)
        events = [json.loads(line) for line in log.read_text().splitlines()]
        # Chat templates are rendered in processes of our own, which have nothing of ours in them.
        others = tuple((event, told) for event, told in events if "templates/program.py" not in told)
        connected = [_PORT.findall(told)[-1:] for event, told in events if event == "socket.connect"]
        ports = frozenset(int(port) for found in connected for port in found)
        return Watched(code, *job.said(), ports, others)


@contextmanager
def running(folder: Path, homes: Path) -> Iterator[Processes]:
    note, environment = folder / "modules", {**surroundings(), "FUSERY_USER": "tester"}
    with Nursery(_HEAVY) as nursery:
        job = Job(run_all, (_learn, (homes,), note), environment, homes, folder / "learned")
        assert nursery.run(job) == 0, job.said()
    with Nursery([*_HEAVY, *note.read_text().split("\n")]) as nursery:
        yield Processes(folder, nursery)
