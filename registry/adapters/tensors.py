"""The numbers of an adapter as they are stored: read one tensor at a time, transposed, scaled, padded, written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.errors import FormatError
from fusery.storage.failures import os_failures
from fusery.storage.opening import opened
from fusery.storage.safetensors import Tensor, build_header

from ..engine.arithmetic import F32, FORMATS, decode, encode

Array = NDArray[Any]
_BLOCK = 1 << 22
_STORED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor's dtype, in the words of safetensors, and its bits as unsigned integers of the same size."""

    dtype: str
    bits: Array


def read_stored(path: Path, tensor: Tensor) -> Stored:
    """Read one tensor.

    Raises:
        FormatError: the file is shorter than it was, or the dtype has elements smaller than a byte.
        StorageError: it cannot be read.
    """
    with opened(path) as file:
        file.seek(tensor.begin)
        data = file.read(tensor.size)
    count = int(np.prod(tensor.shape, dtype=np.int64))
    if len(data) != tensor.size or (count and tensor.size % count):
        raise FormatError(f"{path.name} changed while it was read")
    kind = np.dtype(_STORED[tensor.size // count] if count else np.uint8).newbyteorder("<")
    return Stored(tensor.dtype, np.frombuffer(data, kind).reshape(tensor.shape))


def same_numbers(path: Path, one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of a file have the same dtype, shape and bytes; they may be an embedding's gigabytes.

    Raises:
        FormatError: the file is shorter than it was.
        StorageError: it cannot be read.
    """
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with opened(path) as file:
        for first in range(0, one.size, _BLOCK):
            size = min(_BLOCK, one.size - first)
            blocks = []
            for tensor in (one, other):
                file.seek(tensor.begin + first)
                blocks.append(file.read(size))
            if any(len(block) != size for block in blocks):
                raise FormatError(f"{path.name} changed while it was read")
            if blocks[0] != blocks[1]:
                return False
    return True


def transposed(tensor: Stored) -> Stored:
    """Return a matrix transposed; whatever has not two dimensions as it is."""
    return Stored(tensor.dtype, tensor.bits.T if tensor.bits.ndim == 2 else tensor.bits)


def repeated(tensor: Stored, times: int) -> Stored:
    """Return a matrix with each column several times, side by side."""
    if times == 1 or tensor.bits.ndim != 2:
        return tensor
    return Stored(tensor.dtype, np.repeat(tensor.bits, times, axis=1))


def padded(tensor: Stored, axis: int, size: int) -> Stored:
    """Return an array with zeros behind its end along one axis, up to a size; zero is all bits off in every format."""
    if tensor.bits.ndim <= axis or tensor.bits.shape[axis] >= size:
        return tensor
    missing = [(0, 0)] * tensor.bits.ndim
    missing[axis] = (0, size - tensor.bits.shape[axis])
    return Stored(tensor.dtype, np.pad(tensor.bits, missing))


@np.errstate(over="ignore", invalid="ignore")
def multiplied(tensor: Stored, factor: float) -> tuple[Stored, bool]:
    """Return numbers times a factor, and whether that is exact.

    The dtype stays if every product has a place in it; else the numbers become float32, rounded once if need be.
    """
    if factor == 1 or tensor.dtype not in FORMATS:
        return tensor, True
    form = FORMATS[tensor.dtype]
    values = decode(tensor.bits.view(form.stored), form).astype(np.float64)
    products = values * factor
    # A product of two float32 numbers has a place in float64, any other may not.
    short = float(np.float32(factor)) == factor
    for candidate in dict.fromkeys((form, F32)):
        kept = encode(products.astype(np.float32), candidate)
        same = np.array_equal(decode(kept, candidate).astype(np.float64), products, equal_nan=True)
        exact = short and bool(same)
        if exact or candidate is F32:
            return Stored(candidate.name, kept.view(_STORED[candidate.size])), exact
    raise AssertionError("float32 was the last")


def widened(tensor: Stored) -> Stored:
    """Return numbers as float32, exactly."""
    if tensor.dtype not in FORMATS or tensor.dtype == F32.name:
        return tensor
    form = FORMATS[tensor.dtype]
    return Stored(F32.name, decode(tensor.bits.view(form.stored), form).view(_STORED[F32.size]))


def write_stored(path: Path, tensors: Iterable[tuple[str, Stored]], metadata: Mapping[str, str]) -> None:
    """Write tensors as a safetensors file, in the order given.

    Raises:
        StorageError: it cannot be written.
    """
    held = list(tensors)
    header = build_header(
        [(name, tensor.dtype, tensor.bits.shape) for name, tensor in held], dict(metadata) or None
    )
    with os_failures(f"write {path}", near=path.parent), path.open("xb") as file:
        file.write(header)
        for _, tensor in held:
            file.write(np.ascontiguousarray(tensor.bits).data)
