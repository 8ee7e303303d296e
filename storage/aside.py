"""What plugins print: stdout is for the data of a command, so it goes to stderr, with what else there is to say."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_here = threading.local()
_lock = threading.Lock()
_blocks = 0
"""How many there are in all threads."""
_before: TextIO | None = None
"""What stdout was when the first of them began."""


class _Sorted:
    """Stands for stdout while a plugin runs: what its thread prints goes to stderr, what others print where it did.

    Who still holds it afterwards, such as a handler of logs, got it from a plugin.
    """

    def __init__(self, stdout: TextIO) -> None:
        self.stdout = stdout

    def __getattr__(self, name: str) -> Any:
        others = _blocks and not getattr(_here, "blocks", 0)
        return getattr(self.stdout if others or sys.stderr is None else sys.stderr, name)


@contextmanager
def printing_aside() -> Iterator[None]:
    """Let what this thread prints in the block go to stderr; it does nothing to other threads.

    What a plugin puts in the place of stdout, such as a wrapper that colours it, does not stay: data would go there.
    """
    global _before, _blocks
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _before = sys.stdout
            if _before is not None:
                sys.stdout = cast("TextIO", _Sorted(_before))
    _here.blocks = getattr(_here, "blocks", 0) + 1
    try:
        yield
    finally:
        _here.blocks -= 1
        with _lock:
            _blocks -= 1
            if not _blocks:
                sys.stdout, _before = cast("TextIO", _before), None
