"""One pass over the numbers of an adapter: where they are not finite, zero or clipped, and how large each update is."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.failures import opened
from fusery.storage.safetensors import PLAIN, Header, Tensor, decoded

from ..adapters.mlx_config import LoraModule
from ..adapters.tensors import cross

_BLOCK = 4 << 20
# Bytes of a factor that are held in memory to find the norm of an update; of larger ones it stays unknown.
_WHOLE = 256 << 20
_Array = NDArray[Any]


def measure(
    path: Path, header: Header, modules: Mapping[str, LoraModule], group: int | None = None
) -> Values:
    """Read the numbers of an adapter once."""
    # Memory stays at the size of one module's factors, and at a few MiB for tensors that are no factors or over 256 MiB.
    norms: dict[str, float] = {}
    uneven: list[str] = []
    tensors: dict[str, TensorValues] = {}
    with opened(path) as file:
        fd = file.fileno()
        for module in modules.values():
            pair = [header.tensors.get(f"{module.path}.{part}") for part in ("lora_a", "lora_b")]
            held = [tensor for tensor in pair if tensor and _is_float(tensor) and 0 < tensor.size <= _WHOLE]
            if len(held) < 2:
                continue
            a, b = (_whole(fd, tensor) for tensor in held)
            tensors |= {one.name: _look(part) for one, part in zip(held, (a, b), strict=True)}
            if _multiply(a, b):
                norms[module.path] = update_norm(a, b)
                if group is not None and not _is_constant(a, group):
                    uneven.append(module.path)
        for name, tensor in header.tensors.items():
            if name not in tensors and _is_float(tensor):
                tensors[name] = _look_in_blocks(fd, tensor)
    return Values(tensors, norms, uneven)


def measure_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, TensorValues]:
    """Read the numbers of some tensors of a file, and return their statistics by the given names; memory stays at a few MiB."""
    with opened(path) as file:
        return {name: _look_in_blocks(file.fileno(), tensor) for name, tensor in tensors.items()}


def update_norm(a: _Array, b: _Array) -> float:
    """Return the Frobenius norm of the update of `lora_a` and `lora_b`, from their r x r Gram matrices."""
    high_a, high_b = float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0))
    if not (math.isfinite(high_a) and math.isfinite(high_b)):
        return math.nan
    if high_a == 0 or high_b == 0:
        return 0.0
    # Numbers of at most one: their squares cannot leave the range of float32.
    a, b = a / np.float32(high_a), b / np.float32(high_b)
    if a.ndim == 3:
        left, right = a @ a.swapaxes(1, 2), b.swapaxes(1, 2) @ b
    else:
        left, right = cross(a, a), cross(b.T, b.T)
    return high_a * high_b * math.sqrt(max(float(np.vdot(left, right)), 0.0))


def _is_constant(a: _Array, group: int) -> bool:
    # Imported where it is needed: next to no adapter says this.
    from ..engine.rows import constant_in_groups

    right = a.T if a.ndim == 2 else a.reshape(-1, a.shape[-1])
    return right.shape[1] % group == 0 and constant_in_groups(right, group)


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype in PLAIN or tensor.dtype == "BF16"


def _multiply(a: _Array, b: _Array) -> bool:
    if a.ndim == b.ndim == 3:
        return bool(a.shape[0] == b.shape[0] and a.shape[1] == b.shape[2])
    return bool(a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0])


def _whole(fd: int, tensor: Tensor) -> _Array:
    data = os.pread(fd, tensor.size, tensor.begin)
    if len(data) < tensor.size:
        # It is shrinking while it is read; what will be stored is compared with what was judged.
        data += bytes(tensor.size - len(data))
    return _decoded(data, tensor.dtype).reshape(tensor.shape)


def _decoded(data: bytes, dtype: str) -> _Array:
    with np.errstate(over="ignore"):
        return decoded(data, dtype).astype(np.float32, copy=False)


def _look(values: _Array) -> TensorValues:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    finite = math.isfinite(low) and math.isfinite(high)
    at_ends = 0
    if finite and low < high:
        at_ends = int(np.count_nonzero(values == high)) + int(np.count_nonzero(values == low))
        # Adam's first step is as long for every number: they are all at the ends, and none was cut off there.
        if 100 * at_ends > values.size and np.median(np.abs(values)) > 0.9 * max(high, -low):
            at_ends = 0
    zero = low == high == 0
    return TensorValues(finite, zero, values.size, low, high, at_ends / max(1, values.size))


def _look_in_blocks(fd: int, tensor: Tensor) -> TensorValues:
    parts = [_look(block) for block in _blocks(fd, tensor)] or [_look(np.empty(0, np.float32))]
    low = float(np.min([part.low for part in parts]))
    high = float(np.max([part.high for part in parts]))
    finite, zero = all(part.finite for part in parts), all(part.zero for part in parts)
    count = sum(part.count for part in parts)
    # Blocks have ends of their own: clipping is measured of whole tensors only.
    clipped = parts[0].clipped if len(parts) == 1 else 0.0
    return TensorValues(finite, zero, count, low, high, clipped)


def _blocks(fd: int, tensor: Tensor) -> Iterator[_Array]:
    position = tensor.begin
    while position < tensor.end:
        data = os.pread(fd, min(_BLOCK, tensor.end - position), position)
        if not data:
            return
        position += len(data)
        # The format keeps every block whole: its tensors begin and end between numbers.
        size = 2 if tensor.dtype in ("BF16", "F16") else 8 if tensor.dtype == "F64" else 4
        yield _decoded(data[: len(data) - len(data) % size], tensor.dtype)


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What one tensor's numbers are like."""

    finite: bool  # no NaN and no infinity
    zero: bool
    count: int  # how many numbers
    low: float  # the smallest number; NaN where one is NaN
    high: float  # the largest number; NaN where one is NaN
    clipped: float


@dataclass(frozen=True, slots=True)
class Values:
    """What an adapter's numbers are like."""

    tensors: Mapping[str, TensorValues] = field(default_factory=dict)
    # Frobenius norm of `B A`, without the scale, of each module with both factors, by path.
    norms: Mapping[str, float] = field(default_factory=dict)
    uneven: Sequence[str] = ()
