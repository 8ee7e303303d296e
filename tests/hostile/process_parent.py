"""The process that commands are forks of, when it is run: it reads what to run from stdin, one JSON object a line.

It has no thread and no credentials.  A fork gets those of the user, and its audit hook, before it does anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

_REAP = 36
"""Linux's PR_SET_CHILD_SUBREAPER: what a command leaves behind becomes a child of this process."""

_HEAVY = ("asyncio", "s3fs", "psycopg", "asyncssh")
"""What commands import besides for stores and databases of other kinds."""


def serve(events: frozenset[str]) -> dict[str, Any] | None:
    """Fork for each command that is asked for; return what was asked, in the fork, or nothing when there is no more."""
    for name in _HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _say(os.getpid())
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(asked, events)
            return asked
        _say(child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        # What it started and left is waited for as well.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        if names := asked["imported"]:
            _import(names)
        # Seen by strace, so that whoever reads its log knows that everything before is in it.
        with socket.socket(socket.AF_UNIX) as mark, contextlib.suppress(OSError):
            mark.connect(asked["mark"])
        _say(code)
    return None


def _say(number: int) -> None:
    os.write(1, b"%d\n" % number)


def _become(asked: dict[str, Any], events: frozenset[str]) -> None:
    """Be the user's process: with its environment, in its folder, and with an audit hook."""
    for number, (name, flags) in enumerate(
        [
            (os.devnull, os.O_RDONLY),
            (asked["out"], os.O_WRONLY | os.O_CREAT),
            (asked["err"], os.O_WRONLY | os.O_CREAT),
        ]
    ):
        opened = os.open(name, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    log = os.open(asked["events"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def hook(event: str, arguments: Any) -> None:
        if event in events:
            os.write(log, (json.dumps([event, repr(arguments)[:400]]) + "\n").encode())

    sys.addaudithook(hook)


def _import(path: str) -> None:
    """Import what a command had imported, in its order: that of names would begin with halves of packages."""
    for name in json.loads(Path(path).read_text()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
    assert threads == 1, f"{threads} threads, of which a fork has one"


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_REAP, 1)
    from fusery.cli.main import main

    if (asked := serve(frozenset(sys.argv[1].split(",")))) is not None:
        try:
            main(asked["words"])
        finally:
            if asked["imported"]:
                Path(asked["imported"]).write_text(json.dumps(list(sys.modules)))
