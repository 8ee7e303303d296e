"""The tensors of a model, dense or quantised, read some rows at a time: the numbers that MLX computes with, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.errors import FormatError, FuseryError
from fusery.storage.failures import opened

from ..errors import FusionUnsupportedError
from .affine import Grid, dequantize, unpack
from .arithmetic import FORMATS, Array, Format, decode, encode
from .base import Base, Source, read_base
from .grids import AnyGrid, grid_of

_STORED: Mapping[str, np.dtype[Any]] = {
    **{name: form.stored for name, form in FORMATS.items()},
    "U32": np.dtype(np.uint32),
    "U8": np.dtype(np.uint8),
}


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A tensor of a model; one of more than two dimensions counts as rows of all numbers behind the first."""

    name: str
    shape: tuple[int, ...]  # logical shape, unpacked
    form: Format  # a format that holds all of its numbers exactly
    parts: tuple[Source, ...]  # the tensor itself, or words, scales and biases
    grid: AnyGrid | None  # how they are quantised, None if they are not
    files: Mapping[str, Path]

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return prod(self.shape[1:])

    def stored(self, first: int, count: int) -> Array:
        """Return some rows as `form` stores them, (count, width)."""
        words, *rest = (self._read(part, first, count) for part in self.parts)
        if self.grid is None:
            return words.reshape(count, self.width)
        words = words.reshape(-1, self.grid.words_per_group)
        codes = np.empty((self.grid.group_size, len(words)), np.uint32)
        columns = np.empty(codes.shape, np.float32)
        unpack(words, self.grid, codes)
        if isinstance(self.grid, Grid):
            scales, biases = (decode(part, self.form) for part in rest)
            dequantize(codes, scales, biases, self.form, columns, np.empty_like(columns))
        else:
            self.grid.dequantize(codes, rest[0], columns)
        return encode(columns.T, self.form).reshape(count, -1)

    def numbers(self, first: int, count: int) -> Array:
        """Return some rows as float32, (count, width)."""
        return decode(self.stored(first, count), self.form)

    def _read(self, part: Source, first: int, count: int) -> Array:
        width = part.tensor.size // self.shape[0]
        with opened(self.files[part.file]) as file:
            file.seek(part.tensor.begin + first * width)
            data = file.read(count * width)
        if len(data) != count * width:
            raise FormatError(f"{part.file} became shorter while it was read")
        return np.frombuffer(data, _STORED[part.tensor.dtype])


def matrix_of(base: Base, name: str) -> StoredMatrix:
    """Return a tensor of a model by its name."""
    source = base.tensors[name]
    module, _, part = name.rpartition(".")
    if part == "weight" and base.is_quantized(module):
        grid = grid_of(base, module)
        names = ("weight", "scales", "biases") if isinstance(grid, Grid) else ("weight", "scales")
        parts = tuple(base.tensors[f"{module}.{suffix}"] for suffix in names)
        shape = (*source.shape[:-1], parts[1].shape[-1] * grid.group_size)
        return StoredMatrix(name, shape, grid.form, parts, grid, base.files)
    if (form := FORMATS.get(source.tensor.dtype)) is None:
        raise FusionUnsupportedError(f"{name} is {source.tensor.dtype}, not a float format")
    return StoredMatrix(name, source.shape, form, (source,), None, base.files)


_ROWS = 32
_NUMBERS = 1 << 20


def weight_sizes(
    files: Mapping[str, Path], config: Mapping[str, Any], modules: Sequence[str]
) -> dict[str, float]:
    """Return the root mean square of the numbers in the first rows of weights, by module."""
    # Left out are experts, and bases whose tensors mlx-lm rearranges.
    sizes = {}
    with suppress(FuseryError):
        base = read_base(files, config)
        for module in modules:
            with suppress(FuseryError, ValueError, KeyError):
                matrix = matrix_of(base, f"{module}.weight")
                if len(matrix.shape) == 2 and matrix.width:
                    rows = max(1, min(_ROWS, matrix.shape[0], _NUMBERS // matrix.width))
                    size = float(np.sqrt(np.mean(np.square(matrix.numbers(0, rows), dtype=np.float64))))
                    if np.isfinite(size):
                        sizes[module] = size
    return sizes
