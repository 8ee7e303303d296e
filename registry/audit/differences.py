"""How two models on disk differ, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusery.storage.numbers import decoded
from fusery.storage.opening import opened
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

Floats = NDArray[np.float32]

TOLERANCE: Mapping[str, float] = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-22}
"""By dtype, how far a number may be off, as a share of the largest of its tensor: two units in the last place of that."""

_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor that is not the same in both models.

    Attributes:
        tensor: its name.
        message: how it differs.
        tolerable: by no more than `TOLERANCE`.
    """

    tensor: str
    message: str
    tolerable: bool


def differences(ours: Path, theirs: Path) -> Iterator[Difference]:
    """Yield the tensors that differ between two folders, in the order of the first one's files.

    Args:
        ours: a folder with safetensors files.
        theirs: another one; how the tensors are spread over files does not matter.

    Raises:
        FormatError: a file is none.
    """
    there = dict(_tensors(theirs))
    met = set()
    for name, place in _tensors(ours):
        met.add(name)
        if name not in there:
            yield Difference(name, "is in one of them only", False)
        elif (found := _compare(place, there[name])) is not None:
            yield Difference(name, *found)
    for name in there.keys() - met:
        yield Difference(name, "is in one of them only", False)


_Place = tuple[Path, Tensor]


def _tensors(folder: Path) -> Iterator[tuple[str, _Place]]:
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in read_header(path, limit=BASE_HEADER_LIMIT).tensors.values():
            yield tensor.name, (path, tensor)


def _compare(one: _Place, other: _Place) -> tuple[str, bool] | None:
    (_, mine), (_, its) = one, other
    if (mine.dtype, mine.shape) != (its.dtype, its.shape):
        return f"is {its.dtype} {list(its.shape)} and {mine.dtype} {list(mine.shape)}", False
    worst, largest, where = 0.0, 0.0, None
    for begin, left, right in _blocks(one, other):
        if left == right:
            continue
        if where is None:
            where = begin + _first(left, right)
        if mine.dtype not in TOLERANCE:
            return f"differs from byte {where} on", False
        a, b = _floats(left, mine.dtype), _floats(right, mine.dtype)
        distance = float(np.max(np.abs(a - b), initial=0.0))
        worst = math.inf if math.isnan(distance) else max(worst, distance)
    if where is None:
        return None
    for _, left, _right in _blocks(one, other):
        largest = max(largest, float(np.max(np.abs(_floats(left, mine.dtype)), initial=0.0)))
    share = worst / largest if largest else math.inf
    return f"differs from byte {where} on, by {share:.1e} of its largest number", share <= TOLERANCE[
        mine.dtype
    ]


def _blocks(one: _Place, other: _Place) -> Iterator[tuple[int, bytes, bytes]]:
    (mine_path, mine), (its_path, its) = one, other
    with opened(mine_path) as left, opened(its_path) as right:
        left.seek(mine.begin)
        right.seek(its.begin)
        for begin in range(0, mine.size, _BLOCK):
            count = min(_BLOCK, mine.size - begin)
            yield begin, left.read(count), right.read(count)


def _first(left: bytes, right: bytes) -> int:
    a, b = np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8)
    return int(np.argmax(a != b)) if a.size == b.size else 0


def _floats(block: bytes, dtype: str) -> Floats:
    return decoded(block, dtype).astype(np.float32, copy=False)
