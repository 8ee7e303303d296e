"""Whether two base models are forms of one model: equal numbers, or equal codes after MLX's quantisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..engine.architectures import TENSOR_SCALE
from ..engine.arithmetic import Array, decode, encode
from ..engine.base import Base
from ..engine.grids import AnyGrid, requantized
from ..engine.matrices import StoredMatrix, matrix_of

# Share of a tensor's numbers that must agree; kernels of other machines round some ties otherwise
_LEAST = 0.99
_SCALES = ("scales", "biases", TENSOR_SCALE, "input_scale")
_NUMBERS = 1 << 20  # Of a tensor, as many of its first rows as have so many numbers are compared
_RELATIVE = np.float32(2.0**-7)  # One step of bfloat16


def difference_of_forms(first: Base, second: Base) -> str | None:
    """Return in what two bases differ, None if they are forms of one model; of each tensor the first rows are compared."""
    names = set(_logical(first)) ^ set(_logical(second))
    if names:
        return f"only one of them has {min(names)}"
    for name in _logical(first):
        ours, theirs = matrix_of(first, name), matrix_of(second, name)
        if ours.shape != theirs.shape:
            return f"the shapes of {name} differ"
        if 0 not in (*ours.shape, len(ours.shape)) and not _agree(ours, theirs):
            return f"the numbers of {name} differ"
    return None


def _logical(base: Base) -> Iterator[str]:
    """Yield the names of tensors, without the scales and biases of quantised weights."""
    for name in base.tensors:
        module, _, part = name.rpartition(".")
        if part not in _SCALES or not base.is_quantized(module):
            yield name


def _agree(ours: StoredMatrix, theirs: StoredMatrix) -> bool:
    # Their shapes are equal.
    count = min(ours.shape[0], max(1, _NUMBERS // max(1, ours.width)))
    one, other = ours.numbers(0, count), theirs.numbers(0, count)
    if _close(one, other, np.float32(0)):
        return True
    if ours.grid is None and theirs.grid is not None:
        return _requantised_alike(one, other, theirs.grid)
    if theirs.grid is None and ours.grid is not None:
        return _requantised_alike(other, one, ours.grid)
    return False


def _requantised_alike(dense: Array, packed: Array, grid: AnyGrid) -> bool:
    if not np.isfinite(dense).all():
        return False
    groups = decode(encode(dense, grid.form), grid.form).reshape(-1, grid.group_size)
    again = requantized(np.ascontiguousarray(groups.T), grid, grid.form).T
    # A quarter of the step of 8 bits.
    margin = np.abs(packed).max(axis=-1, keepdims=True, initial=0) * np.float32(2.0**-9)
    return _close(again.reshape(packed.shape), packed, margin)


def _close(one: Array, other: Array, margin: Array | np.float32) -> bool:
    if one.shape != other.shape:
        return False
    near = np.abs(one - other) <= np.maximum(np.abs(one), np.abs(other)) * _RELATIVE + margin
    return not near.size or float(near.mean()) >= _LEAST
