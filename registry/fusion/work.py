"""The steps of a plan cut into blocks, and how one block is carried out: read, compute or copy, write."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fusery.storage.safetensors import Tensor

from ..errors import FusionUnsupportedError
from .adapter import Adapter
from .affine import Packed
from .arithmetic import FORMATS, Array, Update
from .blocks import (
    GridUpdate,
    NotFiniteError,
    Workspace,
    dequantize_rows,
    fuse_dense,
    fuse_dequantized,
    requantize,
    rows_per_block,
    tile,
)
from .fidelity import Sums
from .files import read_all, write_all
from .modules import Module
from .plan import Compute, Copy, Place, Step

_COPY = 2 << 20
_PARTS = 4
"""Computed blocks that are read and written together."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an output that have been written."""

    output: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a step: bytes of a copy, or rows of a module.

    Attributes:
        step: the step.
        first: first byte or row.
        count: how many.
        cost: rough nanoseconds, for deciding what to do next.
    """

    step: Step
    first: int
    count: int
    cost: float

    @property
    def source_end(self) -> int:
        """Offset behind the last byte that is read, in the base's file."""
        if isinstance(self.step, Copy):
            return self.step.begin + self.first + self.count
        tensor = self.step.module.weight.tensor
        return tensor.begin + (self.first + self.count) * (tensor.size // self.step.module.rows)


def blocks_of(step: Step) -> Iterator[Block]:
    """Yield the blocks of a step: always the same ones, on which the order of sums depends."""
    total, size = (
        (step.size, _COPY) if isinstance(step, Copy) else (step.module.rows, _rows(step.module) * _PARTS)
    )
    each = cost(step) / max(total, 1)
    for first in range(0, total, size):
        count = min(size, total - first)
        yield Block(step, first, count, each * count)


def cost(step: Step) -> float:
    """Return the rough nanoseconds that a step takes."""
    if isinstance(step, Copy):
        return step.size * 0.3
    module = step.module
    each = 1.5 + 0.25 * module.rank + (1.5 if module.grid else 0) + (2.5 if module.requantize else 0)
    return module.rows * module.columns * each


def _rows(module: Module) -> int:
    return rows_per_block(module.columns, module.rank if module.grid else 0)


class Worker:
    """Carries out blocks for any number of threads, each with a workspace of its own."""

    def __init__(
        self, adapter: Adapter, inputs: Mapping[str, int], outputs: list[int], factors: int, modules: int
    ) -> None:
        """Take the open files.

        Args:
            adapter: whose updates are added.
            inputs: descriptor of each of the base's weight files.
            outputs: descriptors of the files to write.
            factors: descriptor of the adapter's file.
            modules: how many modules' updates to hold at a time.
        """
        self._adapter, self._inputs, self._outputs, self._factors = adapter, inputs, outputs, factors
        self._updates: OrderedDict[str, Update | GridUpdate] = OrderedDict()
        self._modules = modules
        self._lock = threading.Lock()

    def run(self, block: Block, work: Workspace) -> tuple[list[Span], Sums | None]:
        """Carry out a block; return what was written and, for a touched module, what it retained.

        Raises:
            FusionUnsupportedError: a quantised module or the adapter holds a number that is not finite.
            BlobCorruptError: a file of the base ends before it should.
            OSError: writing failed.
        """
        step = block.step
        if isinstance(step, Copy):
            data = self._read(step.file, step.begin + block.first, block.count, "raw", work)
            return [self._write(step.place, block.first, data)], None
        if step.module.grid is None:
            return self._dense(step, block, work)
        if step.scales is None:
            return self._dequantized(step, block, work)
        try:
            return self._requantized(step, block, work)
        except NotFiniteError:
            raise FusionUnsupportedError(
                f"{step.module.path} holds numbers that are not finite and cannot be quantised"
            ) from None

    def _dense(self, step: Compute, block: Block, work: Workspace) -> tuple[list[Span], Sums | None]:
        module = step.module
        stored = self._rows(module.weight.file, module.weight.tensor, block, "raw", work)
        stored = stored.view(module.form.stored)
        out = work.bytes(stored.nbytes, "out").view(stored.dtype).reshape(stored.shape)
        update, sums = self._update(module), Sums()
        assert isinstance(update, Update)
        for part in _parts(module, block):
            sums += fuse_dense(stored[part], module.form, update, block.first + part.start, out[part], work)
        return [self._write_rows(step.weight, block, out)], sums

    def _dequantized(self, step: Compute, block: Block, work: Workspace) -> tuple[list[Span], Sums | None]:
        module, grid = step.module, step.module.grid
        assert grid is not None
        words, scales, biases = self._packed(module, block, work)
        groups = module.columns // grid.group_size
        size = block.count * module.columns * module.form.size
        out = work.bytes(size, "out").view(module.form.stored).reshape(block.count, groups, grid.group_size)
        change, sums = self._update(module) if module.touched else None, Sums()
        for part in _parts(module, block):
            packed = _packed_rows(words[part], scales[part], biases[part], grid.words_per_group)
            target = out[part].reshape(-1, grid.group_size)
            if isinstance(change, GridUpdate):
                sums += fuse_dequantized(packed, grid, change, block.first + part.start, target, work)
            else:
                dequantize_rows(packed, grid, target, work)
        return [self._write_rows(step.weight, block, out)], sums if module.touched else None

    def _requantized(self, step: Compute, block: Block, work: Workspace) -> tuple[list[Span], Sums | None]:
        module, grid = step.module, step.module.grid
        assert grid is not None and step.scales is not None and step.biases is not None
        words, scales, biases = self._packed(module, block, work)
        change, sums = self._update(module), Sums()
        assert isinstance(change, GridUpdate)
        for part in _parts(module, block):
            packed = _packed_rows(words[part], scales[part], biases[part], grid.words_per_group)
            new, retained = requantize(packed, grid, change, block.first + part.start, work)
            # The rows read are not needed any more: the result takes their place.
            words[part] = new.words.reshape(words[part].shape)
            scales[part] = new.scales.reshape(scales[part].shape)
            biases[part] = new.biases.reshape(biases[part].shape)
            sums += retained
        places = ((step.weight, words), (step.scales, scales), (step.biases, biases))
        return [self._write_rows(place, block, data) for place, data in places], sums

    def _packed(self, module: Module, block: Block, work: Workspace) -> tuple[Array, Array, Array]:
        assert module.scales is not None and module.biases is not None
        words = self._rows(module.weight.file, module.weight.tensor, block, "raw", work).view(np.uint32)
        scales = self._rows(module.scales.file, module.scales.tensor, block, "scales", work)
        biases = self._rows(module.biases.file, module.biases.tensor, block, "biases", work)
        return words, scales.view(module.form.stored), biases.view(module.form.stored)

    def _rows(self, file: str, tensor: Tensor, block: Block, name: str, work: Workspace) -> Array:
        """Read rows of a tensor as bytes (rows, bytes of a row)."""
        width = tensor.size // tensor.shape[0]
        data = self._read(file, tensor.begin + block.first * width, block.count * width, name, work)
        return data.reshape(block.count, width)

    def _read(self, file: str, offset: int, size: int, name: str, work: Workspace) -> Array:
        data = work.bytes(size, name)
        read_all(self._inputs[file], data.data, offset)
        return data

    def _write_rows(self, place: Place, block: Block, data: Array) -> Span:
        return self._write(place, block.first * (data.nbytes // block.count), data.reshape(-1).view(np.uint8))

    def _write(self, place: Place, offset: int, data: Array) -> Span:
        begin = place.offset + offset
        write_all(self._outputs[place.output], data.data, begin)
        return Span(place.output, begin, begin + data.nbytes)

    def _update(self, module: Module) -> Update | GridUpdate:
        """Return a module's update, made once; blocks come in order, so that a few modules are in use at a time."""
        with self._lock:
            found = self._updates.get(module.path)
            if found is None:
                while len(self._updates) >= self._modules:
                    self._updates.popitem(last=False)
                found = self._updates[module.path] = self._prepare(module)
            return found

    def _prepare(self, module: Module) -> Update | GridUpdate:
        factors = module.factors
        if factors is None:
            update = Update.nothing(module.rows, module.columns)
        else:
            forms = FORMATS[factors.a.dtype], FORMATS[factors.b.dtype]
            a, b = self._factor(factors.a), self._factor(factors.b)
            try:
                update = Update.of(a, b, *forms, self._adapter.scale, embedding=module.embedding)
            except ValueError:
                raise FusionUnsupportedError(
                    f"the adapter's update of {module.path} holds numbers that are not finite"
                ) from None
        if module.grid is None:
            return update
        return GridUpdate(update, tile(update.right, module.grid, _rows(module)))

    def _factor(self, tensor: Tensor) -> Array:
        data = np.empty(tensor.size, np.uint8)
        read_all(self._factors, data.data, tensor.begin)
        return data.view(FORMATS[tensor.dtype].stored).reshape(tensor.shape)


def _parts(module: Module, block: Block) -> Iterator[slice]:
    rows = _rows(module)
    return (slice(start, min(start + rows, block.count)) for start in range(0, block.count, rows))


def _packed_rows(words: Array, scales: Array, biases: Array, words_per_group: int) -> Packed:
    return Packed(words.reshape(-1, words_per_group), scales.reshape(-1), biases.reshape(-1))
