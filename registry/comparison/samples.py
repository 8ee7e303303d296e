"""A first look whether two adapters may be alike: the cosine of their updates over a few modules, in single precision.

It is right to a thousandth, which is enough to pass over the many that are not alike.  Those that one adapter is compared
with are mostly those of the next as well, so that what was read of small ones is held for a while.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.stamps import FileState, state_of

from ..adapters.products import cross
from .modules import OpenAdapter

Array = NDArray[Any]

_HELD = 1 << 20
"""Bytes of a module's factors up to which they are held."""

_MOST = 40
"""Modules that are held."""


@dataclass(frozen=True, slots=True)
class _Update:
    """One update, `size * a.T @ b` with factors (rows, rank) that have no number above one, and its norm without `size`."""

    a: Array
    b: Array
    size: float
    norm: float


def rough_cosine(ours: OpenAdapter, theirs: OpenAdapter, modules: Sequence[str]) -> float | None:
    """Return the cosine between two adapters over some modules; None where one is zero or holds what is no number.

    Raises:
        BlobCorruptError: a file ends before it should.
    """
    product = ours_squared = theirs_squared = 0.0
    for module in modules:
        for one, other in zip(_updates(ours, module), _updates(theirs, module), strict=True):
            inner = float(np.vdot(cross(one.a, other.a), cross(one.b, other.b)))
            product += one.size * other.size * inner
            ours_squared += (one.size * one.norm) ** 2
            theirs_squared += (other.size * other.norm) ** 2
    norm = math.sqrt(ours_squared) * math.sqrt(theirs_squared)
    return product / norm if norm and math.isfinite(norm) and math.isfinite(product) else None


def _updates(adapter: OpenAdapter, module: str) -> Sequence[_Update]:
    factors = adapter.factors[module]
    if factors.a.size + factors.b.size > _HELD:
        return _read(adapter, module)
    return _held(_Key(adapter, state_of(os.fstat(adapter.file))), module)


class _Key:
    """An open adapter that is the same as another one if its file is, and what is made of it."""

    def __init__(self, adapter: OpenAdapter, state: FileState) -> None:
        self.adapter = adapter
        self._same = (*state, adapter.scale)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


@lru_cache(_MOST)
def _held(key: _Key, module: str) -> Sequence[_Update]:
    return _read(key.adapter, module)


def _read(adapter: OpenAdapter, module: str) -> Sequence[_Update]:
    return [_update(adapter, module, part) for part in range(adapter.parts(module))]


def _update(adapter: OpenAdapter, module: str, part: int) -> _Update:
    read = adapter.read(module, part)
    a, size_a = _scaled(read.a)
    b, size_b = _scaled(read.b.T)
    norm = math.sqrt(max(0.0, float(np.vdot(cross(a, a), cross(b, b)))))
    return _Update(a, b, read.scale * size_a * size_b, norm)


def _scaled(factor: Array) -> tuple[Array, float]:
    """Return a factor with no number above one, and what it is to be multiplied by."""
    high = float(np.abs(factor).max(initial=0.0))
    if not high or not math.isfinite(high):
        return np.zeros(factor.shape, np.float32), high
    return (factor / factor.dtype.type(high)).astype(np.float32), high
