"""Commands on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Mapping

_UNSET = (
    "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE",
)  # fmt: skip


def shown_on(columns: int, *commands: Iterable[str], env: Mapping[str, str] | None = None) -> list[str]:
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
        environment = {**kept, "TERM": "xterm-256color", "MLX_DISABLE_COMPILE": "1", **(env or {})}
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
    finally:
        os.close(theirs)
    with child:
        text = _read_all(ours).decode().replace("\r\n", "\n")
    assert child.returncode == 0, text
    parts = text.split(mark)
    assert parts.pop() == "" and len(parts) == len(commands), text
    return parts


def _read_all(descriptor: int) -> bytes:
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
