"""The factors of an adapter in its other forms: PEFT and llama.cpp store them transposed, and llama.cpp interleaves some rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from .. import tables
from ..inspection.views import NUMBERS, View, loose_of, named_digest, whole
from .compare import Digests

if TYPE_CHECKING:
    import numpy as np
    from sqlalchemy.orm import Session

    Array = np.ndarray[Any, Any]

MOST = 256 << 20
"""The largest factor that is transposed in memory, in bytes; no adapter has one as large."""

_QUERIES = re.compile(r"self_attn\.[qk]_proj\.lora_b")


def head_widths(session: Session) -> frozenset[int]:
    """Return the widths of the attention heads of all bases."""
    found = set()
    for config in session.scalars(select(tables.BaseModel.config)):
        hidden, heads, width = (config.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
        if isinstance(width, int):
            found.add(width)
        elif isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            found.add(hidden // heads)
    return frozenset(width for width in found if width > 0 and width % 2 == 0)


def transposed_exact(digests: Digests, widths: frozenset[int]) -> Digests:
    """Return the digests of factors and those of their transposed layouts."""
    found = {}
    for view, own in digests.items():
        others = [
            named_digest(view.dtype, transposed.shape, hashlib.sha256(_bytes(transposed)).hexdigest())
            for transposed in _transposed(view, widths)
        ]
        found[view] = [*own, *others]
    return found


def transposed_loose(view: View, own: Sequence[str], widths: frozenset[int]) -> list[str]:
    """Return the loose digest of a factor and those of its transposed layouts."""
    return [
        *own,
        *(
            loose_of(transposed.shape, iter([_numbers(transposed, view)]))
            for transposed in _transposed(view, widths)
        ),
    ]


def _transposed(view: View, widths: frozenset[int]) -> Iterator[Array]:
    if len(view.shape) != 2 or view.dtype not in NUMBERS or view.size > MOST:
        return
    matrix = whole(view)
    yield matrix.T
    if _QUERIES.search(view.name):
        rows = matrix.shape[0]
        for width in sorted(widths):
            if rows % width == 0:
                yield (
                    matrix.reshape(-1, width // 2, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape).T
                )


def _bytes(matrix: Array) -> bytes:
    return matrix.tobytes()


def _numbers(matrix: Array, view: View) -> Array:
    import numpy as np

    if view.dtype == "BF16":
        return (np.ascontiguousarray(matrix).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(matrix).view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[view.dtype])
