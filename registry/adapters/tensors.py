"""The numbers of an adapter as they are stored: read one tensor at a time, transposed, scaled, padded, written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.errors import FormatError
from fusery.storage.failures import opened, os_failures
from fusery.storage.safetensors import Tensor, build_header

from ..engine.arithmetic import F32, FORMATS, decode, encode

Array = NDArray[Any]
_BLOCK = 1 << 22
_STORED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's dtype, in the words of safetensors, and its bits as unsigned integers of the same size."""

    dtype: str
    bits: Array


def read_stored(path: Path, tensor: Tensor) -> StoredTensor:
    """Read one tensor."""
    with opened(path) as file:
        file.seek(tensor.begin)
        data = file.read(tensor.size)
    count = int(np.prod(tensor.shape, dtype=np.int64))
    if len(data) != tensor.size or (count and tensor.size % count):
        raise FormatError(f"{path.name} changed while it was read")
    kind = np.dtype(_STORED[tensor.size // count] if count else np.uint8).newbyteorder("<")
    return StoredTensor(tensor.dtype, np.frombuffer(data, kind).reshape(tensor.shape))


def same_numbers(path: Path, one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of a file have the same dtype, shape and bytes; they may be an embedding's gigabytes."""
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


def transposed(tensor: StoredTensor) -> StoredTensor:
    """Return a matrix transposed; whatever has not two dimensions as it is."""
    return StoredTensor(tensor.dtype, tensor.bits.T if tensor.bits.ndim == 2 else tensor.bits)


def repeated(tensor: StoredTensor, times: int) -> StoredTensor:
    """Return a matrix with each column several times, side by side."""
    if times == 1 or tensor.bits.ndim != 2:
        return tensor
    return StoredTensor(tensor.dtype, np.repeat(tensor.bits, times, axis=1))


def padded(tensor: StoredTensor, axis: int, size: int) -> StoredTensor:
    """Return an array with zeros behind its end along one axis, up to a size; zero is all bits off in every format."""
    if tensor.bits.ndim <= axis or tensor.bits.shape[axis] >= size:
        return tensor
    missing = [(0, 0)] * tensor.bits.ndim
    missing[axis] = (0, size - tensor.bits.shape[axis])
    return StoredTensor(tensor.dtype, np.pad(tensor.bits, missing))


@np.errstate(over="ignore", invalid="ignore")
def multiplied(tensor: StoredTensor, factor: float) -> StoredTensor:
    """Return numbers times a factor: in their dtype if it holds every product exactly, else rounded once to float32."""
    if factor == 1 or tensor.dtype not in FORMATS:
        return tensor
    form = FORMATS[tensor.dtype]
    products = decode(tensor.bits.view(form.stored), form).astype(np.float64) * factor
    kept = encode(products.astype(np.float32), form)
    # A product of two float32 numbers has a place in float64, any other may not.
    exact = float(np.float32(factor)) == factor
    if not exact or not np.array_equal(decode(kept, form).astype(np.float64), products, equal_nan=True):
        form, kept = F32, encode(products.astype(np.float32), F32)
    return StoredTensor(form.name, kept.view(_STORED[form.size]))


def widened(tensor: StoredTensor) -> StoredTensor:
    """Return numbers as float32, exactly."""
    if tensor.dtype not in FORMATS or tensor.dtype == F32.name:
        return tensor
    form = FORMATS[tensor.dtype]
    return StoredTensor(F32.name, decode(tensor.bits.view(form.stored), form).view(_STORED[F32.size]))


def write_stored(
    path: Path, tensors: Iterable[tuple[str, StoredTensor]], metadata: Mapping[str, str]
) -> None:
    """Write tensors as a safetensors file, in the order given."""
    held = list(tensors)
    entries = [(name, tensor.dtype, tensor.bits.shape) for name, tensor in held]
    header = build_header(entries, dict(metadata) or None)
    with os_failures(f"write {path}", near=path.parent), path.open("xb") as file:
        file.write(header)
        for _, tensor in held:
            file.write(np.ascontiguousarray(tensor.bits).data)


# Multiplications in a product of matrices up to which OpenBLAS uses one thread (its interface/gemm.c).
_ALONE = 1 << 18


def cross(a: Array, b: Array) -> Array:
    """Return a.T @ b of two matrices with as many rows."""
    rows = a.shape[0]
    height = min(max(1, _ALONE // max(1, a.shape[1] * b.shape[1])), max(1, rows))
    whole = rows - rows % height
    first, second = (factor[:whole].reshape(whole // height, height, factor.shape[1]) for factor in (a, b))
    array: Array = np.matmul(first.transpose(0, 2, 1), second).sum(axis=0)
    if whole < rows:
        array += a[whole:].T @ b[whole:]
    return array
