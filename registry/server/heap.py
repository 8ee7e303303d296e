"""What the C library keeps of memory that was used: little, in a process that lives for weeks.

glibc gives each thread that asks at a busy moment a heap of its own, and what is free in one serves no other: beside a base
of 300 MB a crowd's passes left 100 MB in them.  Elsewhere (musl, macOS, Windows) nothing is done here.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_ARENA_MAX = -8
"""Number of heaps (glibc's malloc.h)."""


def share_one_heap() -> None:
    """Have all threads share one heap; best before there are any: what a heap of its own has stays there."""
    limit = _of_glibc("mallopt")
    if limit is not None:
        limit(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give back the room of arrays that are gone: mlx keeps it for others, and glibc what lies between those that have grown."""
    import mlx.core as mx

    # mlx-lm's layers draw numbers that nobody looks at; the state of the generator would keep the way to all of them.
    mx.eval(mx.random.state)
    mx.clear_cache()
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """Return a function that only glibc has, None elsewhere."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
