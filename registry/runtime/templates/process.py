"""Processes that render templates: started when needed, one request at a time, killed when one takes too long."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import program

START_SECONDS = 60.0  # until a process is ready, on a busy machine
END_SECONDS = 5.0  # from the end of its output to the end of a process
MOST_REFUSAL = 1000  # characters of a template's own error

_KEPT = ("PATH", "PYTHONPATH", "LANG", "TZ", "TZDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""The variables of the environment that a process inherits: paths, and no credentials."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one rendering."""

    seconds: float = 2.0  # of processor time
    clock: float = 10.0  # seconds in all
    memory: int = 512 << 20  # bytes of the process; macOS does not enforce it
    characters: int = 16 << 20


def chat_program() -> list[str]:
    """Return the command that runs `program` for chat templates, in an interpreter that starts quickly."""
    return [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-W", "ignore", program.__file__]


class Process:
    """A process that renders."""

    def __init__(self, command: Sequence[str], limits: Limits) -> None:
        self._limits, self._is_ready = limits, False
        self._latest = time.monotonic() + START_SECONDS
        # An interpreter without `site` does not know the folders of Jinja and what it needs.
        specs = [find_spec(name) for name in ("jinja2", "markupsafe")]
        path = sorted({str(Path(spec.origin).parent.parent) for spec in specs if spec and spec.origin})
        settings = {"seconds": limits.seconds, "memory": limits.memory, "path": path}
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, json.dumps(settings)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in _KEPT if name in os.environ},
                    start_new_session=True,  # Ctrl-C reaches only the parent
                )
        except OSError as error:
            self._socket.close()
            raise NoProcess(f"cannot be rendered: cannot start a process: {error.strerror}") from error

    def ready(self) -> None:
        """Wait until it has started."""
        if self._is_ready:
            return
        try:
            self._receive(self._latest, 1)
        except (OSError, EOFError) as error:
            raise NoProcess("cannot be rendered: the process for it did not start") from error
        self._is_ready = True

    @property
    def alive(self) -> bool:
        """Whether it can take a request."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], most: int) -> str:
        """Return the text of a request; after any error but `TemplateRaised`, the process must be closed."""
        until = time.monotonic() + self._limits.clock
        message = json.dumps({**request, "most": most}).encode()
        try:
            self._socket.settimeout(self._limits.clock)
            self._socket.sendall(len(message).to_bytes(program.HEAD) + message)
            receive = self._receive(until, 4 * most + 1)
        except TimeoutError as error:
            self.kill()
            raise TemplateTooMuch(f"needed more than {self._limits.clock:g} s") from error
        except (OSError, EOFError) as error:
            raise self._why_it_ended() from error
        kind, text = receive[:1], receive[1:].decode("utf-8", "surrogatepass")
        if kind == program.TEXT:
            return text
        if kind == program.RAISED:
            raise TemplateRaised(_plain(text[:MOST_REFUSAL]))
        if kind == program.LENGTH:
            raise TemplateTooLong(f"made more than {most:,} characters")
        raise TemplateTooMuch(f"needed more than {self._limits.memory >> 20} MiB of memory")

    def kill(self) -> None:
        """Kill it; `ask` raises in the thread that waits for its answer."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it and close its socket; only in the thread that uses it."""
        self.kill()
        self._socket.close()

    def _why_it_ended(self) -> TemplateTooMuch | NoProcess:
        try:
            ended = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            ended = 0
        if ended == -signal.SIGPROF:
            return TemplateTooMuch(f"needed more than {self._limits.seconds:g} s")
        if ended == -signal.SIGKILL:
            return NoProcess("was not rendered: its process was killed")
        return TemplateTooMuch("needed more than its process has")  # usually a stack overflow

    def _receive(self, until: float, most: int) -> bytes:
        size = int.from_bytes(self._exactly(program.HEAD, until))
        if not 0 < size <= max(most, 1 << 16):
            self.kill()  # the template has taken over the process
            raise EOFError
        return self._exactly(size, until)

    def _exactly(self, size: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


class TemplateProcesses:
    """Processes for any number of threads, each started when it is first needed."""

    def __init__(
        self, command: Sequence[str] | None = None, *, limits: Limits | None = None, width: int = 1
    ) -> None:
        self.limits = limits or Limits()
        self._command = chat_program() if command is None else list(command)
        self._free: queue.LifoQueue[Process | None] = queue.LifoQueue()
        for _ in range(width):
            self._free.put(None)
        self._lock = threading.RLock()  # a signal's handler may call `close` while its own thread holds it
        self._all: set[Process] = set()
        self._closed = False

    def start(self, *, wait: bool = True) -> None:
        """Start a process, and wait for it unless `wait` is False."""
        with self._taken() as process:
            if wait:
                process.ready()

    def render(self, request: Mapping[str, Any], most: int | None = None) -> str:
        """Return the text of a request."""
        length = self.limits.characters
        with self._taken() as process:
            process.ready()
            return process.ask(request, length if most is None else min(most, length))

    def close(self) -> None:
        """Kill all processes; running and later requests fail."""
        with self._lock:
            self._closed = True
            ended = list(self._all)
        for process in ended:
            process.kill()
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for free in idle:
            self._drop(free)
            self._free.put(None)  # wakes a waiting thread

    @contextmanager
    def _taken(self) -> Iterator[Process]:
        """Yield a process; drop it after any error but `TemplateRaised`."""
        try:
            process = self._free.get(timeout=self.limits.clock)
        except queue.Empty:
            raise NoProcess("was not rendered: too many wait for it; try again in a moment") from None
        try:
            with self._lock:
                if self._closed:
                    raise _stopped()
                if process is None or not process.alive:
                    self._drop(process)
                    process = None
                    process = Process(self._command, self.limits)
                    self._all.add(process)
            yield process
        except TemplateRaised:
            raise
        except BaseException as error:  # also Ctrl-C: the next answer would be that to this request
            self._drop(process)
            process = None
            if self._closed and isinstance(error, TemplateError):
                raise _stopped() from error
            raise
        finally:
            self._free.put(process)

    def _drop(self, process: Process | None) -> None:
        if process is not None:
            with self._lock:
                self._all.discard(process)
            process.close()


def _plain(text: str) -> str:
    """Return a template's own error as printable text."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _stopped() -> NoProcess:
    return NoProcess("was not rendered: the server is stopping")


class TemplateError(Exception):
    """A template was not rendered."""

    temporary = False


class TemplateRaised(TemplateError):
    """The template does not parse, or raises an error of its own."""


class TemplateTooMuch(TemplateError):
    """The template needed more time or memory, or made more text, than it may."""


class TemplateTooLong(TemplateTooMuch):
    """The template made more text than it may."""


class NoProcess(TemplateError):
    """No process could render it; the template is not at fault."""

    temporary = True
