"""Processes in which commands are watched: each is the fork of one that has imported what they import, and done nothing.

All of them are under strace where it is installed, and under an audit hook in any case: a program that is started and a
connection that is made are seen, whoever asked for them.

Import it as `from hostile.processes import Processes`.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 90.0
"""Seconds after which a command is taken to hang, on a machine that is busy with other things."""

_STRACE = shutil.which("strace")
_EVENTS = (
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "socket.connect",
    "socket.getaddrinfo", "subprocess.Popen",
)  # fmt: skip
_EXECUTED = re.compile(r'execve(?:at)?\([^"]*"(?P<program>[^"]*)"')
_CONNECTED = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?, sin6?_port=htons\((?P<port>\d+)\)")


@dataclass(frozen=True, slots=True)
class Watched:
    """What a command did.

    Attributes:
        code: its exit code.
        out: its stdout.
        err: its stderr.
        programs: that were started.
        ports: of connections over the network that were begun.
        events: what the audit hook saw.
    """

    code: int
    out: str
    err: str
    programs: tuple[str, ...]
    ports: frozenset[int]
    events: tuple[tuple[str, str], ...]


def surroundings() -> dict[str, str]:
    """Return the environment of the tests, without what is said to fusery in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FUSERY_", "_FUSERY"))}


class Processes:
    """Runs one command at a time, each in a process that has run no other."""

    def __init__(self, folder: Path) -> None:
        """Begin; logs go into `folder`."""
        self._folder, self._numbers = folder, count()
        self._calls = folder / "calls.log"
        tracing = [
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            "trace=execve,execveat,connect",
            "-o",
            str(self._calls),
            "--",
        ]
        program = Path(__file__).with_name("process_parent.py")
        self._parent = subprocess.Popen(
            [
                *([_STRACE, *tracing] if _STRACE else []), sys.executable, "-P", str(program), ",".join(_EVENTS)
            ],
            env={**surroundings(), "OPENBLAS_NUM_THREADS": "1"},  # what is forked has no thread,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that nothing of a line that is not yet read is in here
        )  # fmt: skip
        self._answer(time.monotonic() + PATIENCE, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._parent:
            pass  # its stdin is closed, and it ends

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, *, learn: bool = False
    ) -> Watched:
        """Run a command in a folder.

        Args:
            words: of the command line.
            environment: all of it.
            folder: the current one.
            learn: later commands begin with what this one imports.
        """
        number = next(self._numbers)
        out, err, events, imported = (
            self._folder / f"{number}.{what}" for what in ("out", "err", "events", "imported")
        )
        mark = str(self._folder / f"{number}.mark")
        start = self._calls.stat().st_size if _STRACE else 0
        asked = {
            "words": words, "environment": dict(environment), "folder": str(folder), "out": str(out), "err": str(err),
            "events": str(events), "imported": str(imported) if learn else "", "mark": mark,
        }  # fmt: skip
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(asked).encode() + b"\n")
        give_up = time.monotonic() + PATIENCE
        child = self._answer(give_up, 0)
        code = self._answer(give_up, child)
        text = self._calls_since(start, mark, give_up) if _STRACE else ""
        ran = _watched(code, out.read_text(), err.read_text(), text, events.read_text())
        for path in (out, err, events):
            path.unlink()
        return ran

    def _answer(self, give_up: float, child: int) -> int:
        """Return the next number that the parent says; a child that takes too long is killed."""
        assert self._parent.stdout is not None
        ready, _, _ = select.select([self._parent.stdout], [], [], max(0.0, give_up - time.monotonic()))
        if not ready:
            if child:
                os.kill(child, signal.SIGKILL)
                # What the parent says of it is not to be taken for an answer about the next one.
                if select.select([self._parent.stdout], [], [], PATIENCE)[0]:
                    self._parent.stdout.readline()
                else:
                    self._parent.kill()
            raise TimeoutError(f"still running after {PATIENCE:g} s")
        return int(self._parent.stdout.readline())

    def _calls_since(self, start: int, mark: str, give_up: float) -> str:
        """Return what strace wrote of a command, when all of it is there."""
        while True:
            with self._calls.open("rb") as file:
                file.seek(start)
                before, found, _ = file.read().decode(errors="replace").partition(mark)
            if found:
                return before
            assert time.monotonic() < give_up, "strace wrote nothing of the last call"
            time.sleep(0.01)


def _watched(code: int, out: str, err: str, calls: str, log: str) -> Watched:
    events = [json.loads(line) for line in log.splitlines()]
    # Chat templates are rendered in processes of our own, which are begun for that and have nothing of ours in them.
    rendering = [event for event in events if "templates/program.py" in event[1]]
    programs = [found["program"] for found in _EXECUTED.finditer(calls)]
    for _ in range(min(len(rendering), programs.count(sys.executable))):
        programs.remove(sys.executable)
    return Watched(
        code,
        out,
        err,
        tuple(programs),
        frozenset(int(found["port"]) for found in _CONNECTED.finditer(calls)),
        tuple((event, said) for event, said in events if [event, said] not in rendering),
    )
