"""What a Python process connects to, writes and starts is noted, from its first line on; its children have this too.

Found by Python itself, where this folder is on PYTHONPATH.  `WATCHED_LOG` names the file for it, one JSON array a line.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
_PLACES = {"os.mkdir": 0, "os.truncate": 0, "sqlite3.connect": 0}
_PLACES |= dict.fromkeys(("os.symlink", "os.link", "os.rename"), 1)
"""Events to which of their arguments is a place that is written."""
_PROGRAMS = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system", "os.forkpty", "pty.spawn")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _watch(log: int) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            shown = arguments[1:] if event.startswith("socket.send") else arguments
            note("network", [event, repr(shown)[:300]])
        elif event in _PROGRAMS:
            note("program", [event, repr(arguments)[:600]])
        elif event == "open":
            path, _, flags = arguments
            if flags & _WRITES and isinstance(path, str | bytes | os.PathLike):
                write(path)
        elif event in _PLACES:
            write(arguments[_PLACES[event]])

    def write(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            note("write", [os.path.realpath(os.fsdecode(path))])

    def note(kind: str, said: list[str]) -> None:
        os.write(log, (json.dumps([kind, *said]) + "\n").encode())

    sys.addaudithook(hook)


if _log := os.environ.get("WATCHED_LOG"):
    _watch(os.open(_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
