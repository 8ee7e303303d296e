"""What the C library keeps of memory that was used: little, in a process that lives for weeks.

glibc gives each thread that asks at a busy moment a heap of its own, and what is free in one serves no other; and as soon as
a large block was freed, those as large lie in the heap as well, between others that are still needed.  Of 407 MB that a
crowd's server took, 83 were that.  Elsewhere (musl, macOS, Windows) nothing is done here.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""From how many bytes on a block is one of its own, given back when it is freed; number of heaps (glibc's malloc.h)."""

_LARGE = 1 << 20


def keep_little() -> None:
    """Have all threads share one heap, and large blocks outside it; best before there are threads, which keep what they have."""
    limit = _of_glibc("mallopt")
    if limit is not None:
        limit(_M_ARENA_MAX, 1)
        limit(_M_MMAP_THRESHOLD, _LARGE)


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
