"""How alike the updates of two adapters are: the cosine between them, from products of factors as small as their ranks.

For two updates A B and C D of one module the inner product is the sum of (A'C) * (B D'), so no whole matrix is made.
It does not depend on which factors an update is written with.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fusery.storage.safetensors import Tensor, read_header

from .fusion.arithmetic import FORMATS, decode

_Array = NDArray[Any]
_LIMIT = 64 << 20
"""Bytes of a factor from which a module is passed over."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the two factors of a module lie."""

    a: Tensor
    b: Tensor

    @property
    def outer(self) -> tuple[int, ...]:
        """What must be the same for two updates to be compared: all sizes but the rank."""
        if len(self.a.shape) == 3:
            return self.a.shape[0], self.a.shape[2], self.b.shape[1]
        return self.a.shape[0], self.b.shape[1]


class Factors:
    """The factors in the safetensors file of an adapter, read one module at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            FormatError: it is malformed.
            MissingFileError: it cannot be read.
        """
        self.pairs = _pairs(read_header(path).tensors)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._read: dict[str, tuple[_Array, _Array]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def of(self, module: str) -> tuple[_Array, _Array]:
        """Return `lora_a` and `lora_b` of a module in float32; kept, for the next to be compared with."""
        if module not in self._read:
            pair = self.pairs[module]
            self._read[module] = (self._tensor(pair.a), self._tensor(pair.b))
        return self._read[module]

    def _tensor(self, tensor: Tensor) -> _Array:
        data = os.pread(self._fd, tensor.size, tensor.begin)
        form = FORMATS[tensor.dtype]
        stored = np.frombuffer(data, form.stored)
        return decode(stored, form).reshape(tensor.shape)


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
    found = {}
    for name, a in tensors.items():
        module, _, part = name.rpartition(".")
        b = tensors.get(f"{module}.lora_b")
        if part != "lora_a" or b is None or max(a.size, b.size) > _LIMIT:
            continue
        plain = len(a.shape) == len(b.shape) == 2 and a.shape[1] == b.shape[0]
        experts = len(a.shape) == len(b.shape) == 3 and a.shape[:2] == (b.shape[0], b.shape[2])
        if (plain or experts) and a.size and {a.dtype, b.dtype} <= FORMATS.keys():
            found[module] = Pair(a, b)
    return found


def shared_modules(ours: Factors, theirs: Factors) -> list[str]:
    """Return the modules that both adapt, sorted; none where that is less than half of what either adapts."""
    shared = sorted(
        module
        for module in ours.pairs.keys() & theirs.pairs.keys()
        if ours.pairs[module].outer == theirs.pairs[module].outer
    )
    enough = 2 * len(shared) >= max(len(ours.pairs), len(theirs.pairs))
    return shared if enough else []


def cosine(ours: Factors, theirs: Factors, modules: Sequence[str]) -> float | None:
    """Return the cosine between two updates over some modules; None where one is zero or holds what is no number."""
    product = square = other = 0.0
    with np.errstate(all="ignore"):
        for module in modules:
            first, second = ours.of(module), theirs.of(module)
            product += _product(first, second)
            square += _product(first, first)
            other += _product(second, second)
    norm = math.sqrt(max(square, 0.0)) * math.sqrt(max(other, 0.0))
    found = product / norm if norm else math.nan
    return max(-1.0, min(1.0, found)) if math.isfinite(found) else None


def _product(first: tuple[_Array, _Array], second: tuple[_Array, _Array]) -> float:
    (a, b), (c, d) = first, second
    if a.ndim == 3:
        left, right = a @ c.swapaxes(1, 2), b.swapaxes(1, 2) @ d
    else:
        left, right = a.T @ c, b @ d.T
    return float(np.vdot(left.astype(np.float64), right.astype(np.float64)))
