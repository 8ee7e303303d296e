"""SIGINT for processes that a test interrupts, however the tests themselves were started.

A shell starts what is to run in the background with SIGINT ignored, and everything that it starts inherits that.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts(how: Any = signal.default_int_handler) -> Iterator[None]:
    """Start processes that can be interrupted; with `SIG_IGN`, such as a shell starts in the background."""
    before = signal.signal(signal.SIGINT, how)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
