"""Processes that begin with fusery's imports made: forks of one that has made them, which is most of what a short command takes.

They are processes like any other, to be shown on a terminal or to be killed.  What is to be said of starting one takes one that is
spawned; and so does macOS, whose libraries do not stand to be forked.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from programs import interrupts
from waiting import PATIENCE

_UNSET = (
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
)


def shown_on(columns: int, *commands: Iterable[str], env: Mapping[str, str] | None = None) -> list[str]:
    """Run commands of fusery in one process on a terminal; return what each of them shows, stdout and stderr."""
    mark = "\x01next\x01"
    code = (
        "import os, sys; from fusery.cli.main import run\n"
        f"for words in {[list(words) for words in commands]!r}:\n"
        "    run(words); sys.stdout.flush(); sys.stderr.flush()\n"
        f"    print({mark!r}, end='', flush=True)\n"
        "os._exit(0)\n"  # to take all modules apart takes half a second
    )
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in _UNSET}
        child = WarmProcess(code, (theirs,) * 3, {**kept, "TERM": "xterm-256color", **(env or {})})
    finally:
        os.close(theirs)
    with child:
        text = _all_of(ours).decode().replace("\r\n", "\n")
    assert child.returncode == 0, text
    parts = text.split(mark)
    assert parts.pop() == "" and len(parts) == len(commands), text
    return parts


def _all_of(descriptor: int) -> bytes:
    parts = []
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # Linux tells the end of the other side so
                break
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


_COMMANDS = ("adapters", "alias", "exchange", "evaluations", "fuse", "home", "main", "train", "trail")
_OTHERS = (
    "alembic.command",
    "mlx_lm.lora",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.sqlite.pysqlite",
)
_REGISTRY = (
    *("admission.rules", "api.registry", "exchange.backup", "registration.add_base"),
    *("catalog.listing", "comparison.modules", "database.schema", "fusion.fuse"),
    *("recording.trainer", "registration.register"),
)
_IMPORTS = (
    *(f"fusery.cli.{name}" for name in _COMMANDS),
    *(f"fusery.registry.{name}" for name in _REGISTRY),
    "fusery.research.layers",
    "fusery.research.probe",
    *_OTHERS,
)

_PARENT = """
import gc, importlib, json, os, signal, socket, sys

for name in sys.argv[2:]:
    importlib.import_module(name)
gc.collect()
gc.freeze()
asking = socket.socket(fileno=int(sys.argv[1]))
while True:
    said, files, _, _ = socket.recv_fds(asking, 1 << 20, 3)
    if not said:
        break
    child = os.fork()
    if child:
        for file in files:
            os.close(file)
        asking.send(b"%d" % child)
        asking.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        continue
    asking.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    asked = json.loads(said)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    # Whoever started the tests may have it ignored.
    signal.signal(signal.SIGINT, signal.SIG_IGN if asked["deaf"] else signal.default_int_handler)
    sys.stdin = open(0, closefd=False)
    sys.stdout, sys.stderr = (open(number, "w", errors=how, closefd=False) for number, how in ((1, None), (2, "backslashreplace")))
    sys.stderr.reconfigure(line_buffering=True)
    exec(asked["code"])
    break
"""


@functools.cache
def _parent() -> socket.socket:
    """Start the process that has the imports, once for all tests here; return what to ask it through."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Both are looked at when the libraries are loaded: without the compiler mlx saves some seconds of g++.
    early = {"MLX_DISABLE_COMPILE": "1", "OPENBLAS_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", _PARENT, str(theirs.fileno()), *_IMPORTS],
        env={**os.environ, **early},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def end() -> None:
        ours.close()
        parent.wait()

    atexit.register(end)
    return ours


class WarmProcess:
    """One of them, which ends with the block at the latest; there is one at a time."""

    def __init__(
        self, code: str, streams: Sequence[int], environment: Mapping[str, str], *, deaf: bool = False
    ) -> None:
        """Start it."""
        self.returncode: int | None = None
        self._spawned: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux":
            with interrupts(signal.SIG_IGN if deaf else signal.default_int_handler):
                stdin, stdout, stderr = streams
                command = [sys.executable, "-P", "-c", code]
                self._spawned = subprocess.Popen(
                    command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment
                )
            self.pid = self._spawned.pid
            return
        asked = {"code": code, "folder": os.getcwd(), "environment": dict(environment), "deaf": deaf}
        socket.send_fds(_parent(), [json.dumps(asked).encode()], streams)
        self.pid = int(_parent().recv(100))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.poll() is None:
            self.send_signal(signal.SIGKILL)
        self.wait()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Return its exit code, None if it has not ended."""
        if self.returncode is None:
            if self._spawned is not None:
                self.returncode = self._spawned.poll()
            elif select.select([_parent()], [], [], 0)[0]:
                self.returncode = int(_parent().recv(100))
        return self.returncode

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait until it has ended, and end it if it does not; return its exit code."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode
