"""Bytes of several transfers added up for one progress bar."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock


def tally(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None] | None:
    """Return a function that takes how many bytes are new, from any thread, and tells how many there are in all.

    Args:
        progress: called with the bytes done and the total; None where nobody wants to know.
        total: bytes that are expected; what comes on top, being read again, makes it larger.
    """
    if progress is None:
        return None
    done, lock = 0, Lock()

    def told(number: int) -> None:
        nonlocal done
        with lock:
            done += number
            progress(done, max(total, done))

    return told
