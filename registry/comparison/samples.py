"""How alike two adapters are: the cosine of their updates, exactly, or over a few modules in single precision.

The latter is right to a thousandth, which is enough to pass over the many that are not alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..adapters.tensors import cross
from .cores import joined
from .modules import OpenAdapter, compare_module

Array = NDArray[Any]

LARGEST = 64 << 20
"""Bytes of a factor from which `shared_modules` passes a module over."""


@dataclass(frozen=True, slots=True)
class _Update:
    a: Array
    b: Array
    size: float
    norm: float


def rough_cosine(ours: OpenAdapter, theirs: OpenAdapter, modules: Sequence[str]) -> float | None:
    """Return the cosine between two adapters over some modules; None where one is zero or holds what is no number."""
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
    updates = []
    for part in range(adapter.parts(module)):
        read = adapter.read(module, part)
        (a, size_a), (b, size_b) = _scaled(read.a), _scaled(read.b.T)
        norm = math.sqrt(max(0.0, float(np.vdot(cross(a, a), cross(b, b)))))
        updates.append(_Update(a, b, read.scale * size_a * size_b, norm))
    return updates


def _scaled(factor: Array) -> tuple[Array, float]:
    high = float(np.abs(factor).max(initial=0.0))
    if not high or not math.isfinite(high):
        return np.zeros(factor.shape, np.float32), high
    return (factor / factor.dtype.type(high)).astype(np.float32), high


def shared_modules(ours: OpenAdapter, theirs: OpenAdapter) -> list[str]:
    """Return the modules that both change and that can be compared, sorted; none where that is less than half of either's."""
    shared = sorted(
        module
        for module in ours.factors.keys() & theirs.factors.keys()
        if ours.shape(module) == theirs.shape(module)
        and max(ours.largest(module), theirs.largest(module)) <= LARGEST
    )
    enough = 2 * len(shared) >= max(len(ours.factors), len(theirs.factors))
    return shared if enough else []


def cosine(ours: OpenAdapter, theirs: OpenAdapter, modules: Sequence[str]) -> float | None:
    """Return the cosine between two adapters over some modules; None where one is zero, or there are none."""
    changes = [compare_module(ours, theirs, module, shapes=False) for module in modules]
    return joined([change.updates for change in changes]).cosine if changes else None
