"""strace: which system calls a command makes that matter, and failing the one that is chosen.

strace attaches to a fork that has stopped, so its counts begin after all imports.  It counts each kind of call by itself and
each thread by itself: `when=N` is the Nth call of that kind in any thread.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.forks import Job, Nursery

WRITING = (
    "write", "writev", "pwrite64", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate", "copy_file_range",
    "sendfile", "link", "linkat", "symlink", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
    "mkdir", "mkdirat", "chmod", "fchmod", "fchmodat", "utimensat", "openat",
)  # fmt: skip
READING = (
    "read", "readv", "pread64", "getdents64", "statfs", "fstatfs", "newfstatat", "stat", "lstat", "fstat", "statx",
    "access", "faccessat2", "readlink", "readlinkat", "flock", "fcntl", "ioctl", "mmap", "close",
)  # fmt: skip
TALKING = (
    "socket", "connect", "sendto", "sendmsg", "recvfrom", "recvmsg", "setsockopt", "getsockopt", "shutdown",
)  # fmt: skip
TRACED = (*WRITING, *READING, *TALKING)
"""Calls that concern files and sockets; those an architecture does not have are asked for with a `?`."""

WATCHED = ("-e", "trace=" + ",".join(f"?{name}" for name in TRACED))
"""strace's options to record them."""

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_NAMED = re.compile(r'"(/[^"]*)"')
_OPEN = re.compile(r"<([^<>]*)>")
_WITHIN = re.compile(r"\(\d+<(?:\{eventfd|anon_inode:|pipe:)")
_PAIR = re.compile(r"<(UNIX[^:]*:\[\d+->\d+\])")

KILLED_ONLY = ("sendto", "sendmsg")
"""After a send that failed, libpq reads why the connection was lost, which it was not.  Lost ones are made at the receiving."""

NEVER = ("close", "mmap")
"""What close reports, nobody can act upon; mmap is memory too, without which CPython's `Thread.start` waits forever."""


@dataclass(frozen=True, slots=True, order=True)
class Call:
    name: str
    number: int
    about: str = "file"


def find_strace() -> str | None:
    return shutil.which("strace")


def traced(nursery: Nursery, job: Job, log: Path, *options: str) -> int:
    assert job.stopped
    pid = nursery.begin(job)
    _wait(pid, lambda status: status["State"][0] == "T")
    try:
        with attached(pid, log, *options):
            os.kill(pid, signal.SIGCONT)
            return nursery.end(pid)
    except PermissionError:
        os.kill(pid, signal.SIGKILL)
        nursery.end(pid)
        raise


@contextmanager
def attached(pid: int, log: Path, *options: str) -> Iterator[None]:
    strace = find_strace()
    assert strace is not None
    words = [strace, "-f", "-yy", "-s", "64", "-p", str(pid), "-o", os.fspath(log), *options]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as tracer:
        try:
            if not _wait(pid, lambda status: status["TracerPid"] != "0", tracer.poll):
                raise PermissionError("strace cannot attach to a process here")
            yield
        finally:
            tracer.terminate()


def _wait(
    pid: int, reached: Callable[[dict[str, str]], bool], over: Callable[[], object | None] = lambda: None
) -> bool:
    give_up = time.monotonic() + 240
    while time.monotonic() < give_up and over() is None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        if reached(dict(line.split(":\t", 1) for line in lines if ":\t" in line)):
            return True
        time.sleep(0.002)
    return False


def calls(nursery: Nursery, job: Job, log: Path) -> list[Call]:
    code = traced(nursery, job, log, *WATCHED)
    assert code == 0, job.said()
    return calls_in(log, job.folder)


def calls_in(log: Path, folder: Path) -> list[Call]:
    """Return the calls in strace's log that concern files in a folder, databases and networks."""
    counts: Counter[tuple[str, str]] = Counter()
    found = set()
    for line in log.read_text(errors="replace").splitlines():
        if (match := _LINE.match(line)) is None:
            continue
        thread, name, rest = match.groups()
        counts[thread, name] += 1
        if (about := _about(rest, os.fspath(folder))) is not None:
            found.add(Call(name, counts[thread, name], about))
    return sorted(found)


def _about(arguments: str, folder: str) -> str | None:
    if "<UNIX" in arguments or "AF_UNIX" in arguments:
        return "database"
    if "<TCP" in arguments or "AF_INET" in arguments:
        return "network"
    named = _NAMED.findall(arguments)
    if not any(path.startswith(folder) for path in named or _OPEN.findall(arguments)):
        return None
    # A file that is opened only to be read does not change.
    return "opened to read" if "O_RDONLY" in arguments and "O_CREAT" not in arguments else "file"


def faults_of(call: Call) -> tuple[str, ...]:
    """Return the faults to inject at a call.

    A kill is one only of a call that changes something: at any other call, a kill leaves the files as the call before it did.
    """
    if call.name in NEVER:
        return ()
    kill = () if call.name in READING or call.about == "opened to read" else ("kill -9",)
    if call.name in KILLED_ONLY:
        return kill
    if call.about in ("database", "network"):
        return (*kill, "EIO", "ECONNRESET")
    return (*kill, "EIO", "ENOSPC") if call.name in WRITING else (*kill, "EIO")


def injection(call: Call, fault: str) -> tuple[str, ...]:
    """Return strace's options for one fault at one call; pairs of sockets are recorded for `is_possible`."""
    what = "signal=KILL" if fault == "kill -9" else f"error={fault}"
    return "-e", f"trace={call.name},?socketpair", "-e", f"inject={call.name}:{what}:when={call.number}"


def was_hit(log: Path, code: int) -> bool:
    return code == -signal.SIGKILL or "(INJECTED)" in log.read_text(errors="replace")


def is_possible(log: Path) -> bool:
    """Return whether all injected errors are such as a kernel makes: of files and sockets, and not within the process.

    As each thread counts its own calls, an error may hit an eventfd, a pipe or a pair of sockets that wakes a thread.
    """
    pairs, begun = set[str](), dict[str, str]()
    for line in log.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        call = begun.pop(thread, "") + rest
        if "<unfinished ...>" in rest:
            begun[thread] = rest
        elif "socketpair(" in call:
            pairs.update(_PAIR.findall(call))
        elif "(INJECTED)" in rest and (_WITHIN.search(call) or pairs & {*_PAIR.findall(call)}):
            return False
    return True
