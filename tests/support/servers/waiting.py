"""Waiting for what comes in its own time: for long, since a busy machine takes longer, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE = 120.0
"""Seconds after which it is not coming: what takes one on an idle machine may take twenty on a busy one."""


def wait_until(
    condition: Callable[[], object],
    what: Callable[[], str] | str = "it did not happen",
    seconds: float = PATIENCE,
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(what if isinstance(what, str) else what())
        time.sleep(0.02)
