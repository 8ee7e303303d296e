"""The numbers of a model, dense or quantised as MLX does it, read block by block and converted to GGUF's formats.

Numbers that MLX quantised come out as MLX dequantises them, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.errors import FormatError
from fusery.storage.failures import opened

from ..engine.affine import Grid, Packed, unpack, unpack_rows
from ..engine.arithmetic import BF16, FORMATS, Array, Format, decode, encode
from ..engine.base import Base, Source
from ..engine.grids import AnyGrid, grid_of
from ..errors import BadInputError

KINDS = ("f32", "f16", "bf16", "q8_0")
"""Formats that a model's matrices can be written in; what has one dimension is always f32, as llama.cpp wants it."""

_BLOCK = 1 << 20
"""Numbers in memory at a time: 4 MiB as float32, and a few times that while they are converted."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A tensor of a model.

    Attributes:
        shape: logical shape, unpacked.
        form: a format that holds all of its numbers exactly.
        parts: where they lie: the tensor itself, or words, scales and biases.
        grid: how they are quantised, None if they are not.
    """

    name: str
    shape: tuple[int, ...]
    form: Format
    parts: tuple[Source, ...]
    grid: AnyGrid | None
    files: Mapping[str, Path]

    def kind(self, wanted: str | None) -> str:
        """Return the ggml type that it is written in."""
        if len(self.shape) < 2:
            return "F32"
        if wanted == "q8_0" and self.shape[-1] % 32:
            return "F16"  # as llama.cpp's own converter falls back
        return (wanted or self.form.name).upper()

    def blocks(self, kind: str, head: int | None = None) -> Iterator[bytes]:
        """Yield its bytes in a ggml type.

        Args:
            head: rows of a head that llama.cpp wants interleaved, None to leave the rows as they are.
        """
        for rows in self.rows(head or 1):
            turned = rows if head is None else _interleaved(rows, head)
            yield self._as(kind, np.ascontiguousarray(turned))

    def _as(self, kind: str, stored: Array) -> bytes:
        if kind == self.form.name:
            return stored.tobytes()
        values = decode(stored, self.form)
        if kind == "Q8_0":
            from gguf import GGMLQuantizationType
            from gguf.quants import quantize

            return bytes(quantize(values, GGMLQuantizationType.Q8_0).tobytes())
        with np.errstate(over="ignore"):
            found = encode(values, FORMATS[kind])
        if kind == "F16" and np.isinf(found.view(np.float16)).any() and np.isfinite(values).all():
            raise BadInputError(f"{self.name} holds numbers that f16 cannot", hint="--gguf-type bf16")
        return found.tobytes()

    def rows(self, unit: int = 1) -> Iterator[Array]:
        """Yield the stored numbers of whole units of rows."""
        rows = self.shape[0]
        width = math.prod(self.shape[1:])
        step = max(1, _BLOCK // (width * unit)) * unit
        for start in range(0, rows, step):
            count = min(step, rows - start)
            parts = [_read(self.files, part, start, count, rows) for part in self.parts]
            yield self._unpacked(parts, count) if self.grid is not None else parts[0].reshape(count, width)

    def _unpacked(self, parts: list[Array], count: int) -> Array:
        words, scales, *biases = parts
        grid = self.grid
        assert grid is not None
        words = words.reshape(-1, grid.words_per_group)
        if isinstance(grid, Grid):
            values = unpack_rows(Packed(words, scales.reshape(-1), biases[0].reshape(-1)), grid)
        else:
            codes = np.empty((grid.group_size, len(words)), np.uint32)
            columns = np.empty(codes.shape, np.float32)
            unpack(words, grid, codes)
            grid.dequantize(codes, scales.reshape(-1), columns)
            values = np.ascontiguousarray(columns.T)
        return encode(values, self.form).reshape(count, -1)


def numbers_of(base: Base, name: str) -> Numbers:
    """Return a tensor of a model by its name."""
    source = base.tensors[name]
    module, _, part = name.rpartition(".")
    if part == "weight" and base.is_quantized(module):
        grid = grid_of(base, module)
        parts = [base.tensors[f"{module}.{each}"] for each in ("weight", "scales")]
        if isinstance(grid, Grid):
            parts.append(base.tensors[f"{module}.biases"])
        groups = parts[1].shape[-1]
        form = grid.form if isinstance(grid, Grid) else BF16
        shape = (*source.shape[:-1], groups * grid.group_size)
        return Numbers(name, shape, form, tuple(parts), grid, base.files)
    form_name = source.tensor.dtype
    if form_name not in FORMATS:
        raise BadInputError(
            f"{name} has numbers of the kind {form_name}, and only F32, F16 and BF16 are written"
        )
    return Numbers(name, source.shape, FORMATS[form_name], (source,), None, base.files)


def interleaved(matrix: Array, head: int) -> Array:
    """Return rows as llama.cpp's rotary embedding wants them: [half, pair] becomes [pair, half] in each head.

    Source: `LlamaModel.permute` in llama.cpp's conversion/llama.py.
    """
    return _interleaved(matrix, head)


def _interleaved(rows: Array, head: int) -> Array:
    return rows.reshape(-1, 2, head // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _read(files: Mapping[str, Path], source: Source, start: int, count: int, rows: int) -> Array:
    tensor = source.tensor
    width = tensor.size // rows
    with opened(files[source.file]) as file:
        file.seek(tensor.begin + start * width)
        data = file.read(count * width)
    if len(data) != count * width:
        raise FormatError(f"{source.file} became shorter while it was read")
    return np.frombuffer(data, _STORED[tensor.dtype])


_STORED: Mapping[str, np.dtype[Any]] = {
    **{name: form.stored for name, form in FORMATS.items()},
    "U32": np.dtype(np.uint32),
    "U8": np.dtype(np.uint8),
}
