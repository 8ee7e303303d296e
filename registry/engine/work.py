"""The steps of a plan cut into blocks, and how one block is carried out: read, compute or copy, write."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.safetensors import Tensor

from ..errors import FusionUnsupportedError
from . import kernel
from .adapter import read_stored
from .affine import Grid
from .arithmetic import F32, FORMATS, Array, NotFiniteError, Thresholds, Update, decode
from .blocks import fuse_rows
from .fidelity import Sums
from .files import copy_range, read_all, write_all
from .modules import PlannedModule
from .plan import ComputeStep, CopyStep, OutputPlace, Step
from .policy import WritePolicy
from .rows import Arrays, Change, StoredRows, constant_in_groups, rows_per_block
from .shaped import Fit, shape_rows
from .shaping import LEAST_STEPS, Shape, Shaper, blocks_of_rows, mean_steps, metric

_COPY = 2 << 20
# Nanoseconds for each number where a calibration shapes: in any case, for each direction, and fitted for the square of those.
_SHAPED, _BY_DIRECTION, _FITTED = (100.0, 0.6, 0.02) if kernel.compiled is not None else (180.0, 3.0, 0.19)
_DIRECTIONS = 32  # Directions of inputs, besides which the adapter's own count
_CHUNK = 1 << 25  # Numbers of a shaped module whose codes are held at a time
_PARTS = 4  # Computed blocks that are read and written together


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an output that have been written."""

    output: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a step: bytes of a copy, or rows of a module; `cost` is rough nanoseconds, for deciding what to do next."""

    step: Step
    first: int
    count: int
    cost: float

    @property
    def source_end(self) -> int:
        """Offset behind the last byte that is read, in the base's file."""
        if isinstance(self.step, CopyStep):
            return self.step.begin + self.first + self.count
        tensor = self.step.module.weight.tensor
        return tensor.begin + (self.first + self.count) * (tensor.size // self.step.module.rows)


def blocks_of(step: Step) -> Iterator[Block]:
    """Yield the blocks of a step: always the same ones, on which the order of sums depends."""
    if isinstance(step, CopyStep):
        total, whole, size = step.size, step.size, _COPY
    else:
        total = step.module.rows
        # The next block of shaped rows takes back what one owes.
        size = total if step.module.target.shaped else _rows(step.module) * _PARTS
        whole = total // step.module.experts
    unit_cost = cost(step) / max(total, 1)
    for begin in range(0, total, whole or 1):
        # No block reaches from one expert into the next.
        for first in range(begin, begin + whole, size):
            count = min(size, begin + whole - first)
            yield Block(step, first, count, unit_cost * count)


def _cut(whole: Block, size: int) -> Iterator[Block]:
    end = whole.first + whole.count
    for first in range(whole.first, end, size):
        yield Block(whole.step, first, min(size, end - first), 0.0)


def cost(step: Step) -> float:
    """Return the rough nanoseconds that a step takes."""
    if isinstance(step, CopyStep):
        return step.size * 0.3
    module, target = step.module, step.module.target
    if target.shaped:
        count = _DIRECTIONS + module.rank
        per_number = _SHAPED + _BY_DIRECTION * count + (_FITTED * count**2 if target.fitted else 0)
    else:
        per_number = 1.5 + 0.25 * module.rank + (1.5 if module.grid else 0) + (2.5 if target.grid else 0)
    return module.rows * module.columns * per_number


def _rows(module: PlannedModule) -> int:
    return rows_per_block(module.columns, module.rank if module.group else 0)


@dataclass(eq=False)
class Worker:
    """Carries out blocks for any number of threads, each with a workspace of its own."""

    _policy: WritePolicy
    _inputs: Mapping[str, int]
    _outputs: list[int] | None
    _factors: Mapping[Path, int]
    _modules: int
    _in_kernel: bool = True
    _changes: OrderedDict[tuple[str, int], Change] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Stop shaping: the fuse was given up."""
        self._stopped.set()

    def run(self, block: Block, work: Arrays) -> tuple[list[Span], Sums | None]:
        """Carry out a block; return what was written and, for a touched module, what it retained."""
        step = block.step
        if isinstance(step, CopyStep):
            return [self._copy(step, block, work)], None
        try:
            if step.module.target.shaped:
                return self._shape(step, block, work)
            return self._compute(step, block, work)
        except NotFiniteError:
            raise FusionUnsupportedError(
                f"{step.module.path} would hold numbers that are not finite, or that its format cannot express"
            ) from None

    def _copy(self, step: CopyStep, block: Block, work: Arrays) -> Span:
        offset, place = step.begin + block.first, step.place.offset + block.first
        if self._outputs is not None and self._in_kernel:
            target = self._outputs[step.place.output]
            self._in_kernel = copy_range(self._inputs[step.file], target, offset, place, block.count)
            if self._in_kernel:
                return Span(step.place.output, place, place + block.count)
        return self._write(step.place, block.first, self._read(step.file, offset, block.count, "raw", work))

    def _compute(self, step: ComputeStep, block: Block, work: Arrays) -> tuple[list[Span], Sums | None]:
        module = step.module
        expert_rows = module.rows // module.experts
        expert, first = divmod(block.first, expert_rows) if module.experts > 1 else (0, block.first)
        rows = self._rows(module, block, work)
        change = self._change(module, expert) if module.touched else None
        out, sums = _room(step, block, work), Sums()
        if module.target.fitted:
            # Rounded at random after all: its scales and biases are the base's.
            for kept, place in ((rows.scales, out.scales), (rows.biases, out.biases)):
                assert kept is not None and place is not None
                np.copyto(place, kept)
        size = _rows(module)
        for start in range(0, block.count, size):
            part = slice(start, start + size)
            sums += fuse_rows(rows[part], module, change, first + start, out[part], work)
        return self._write_all(step, block, out), sums if module.touched else None

    def _shape(self, step: ComputeStep, whole: Block, work: Arrays) -> tuple[list[Span], Sums | None]:
        """Round a whole module, or a sample of it, one block of shuffled rows after the other."""
        module, calibration = step.module, self._policy.calibration
        inputs = calibration.of(module.path) if calibration is not None else None
        change = self._change(module, 0)
        assert inputs is not None and change.thresholds is not None
        if module.target.dither:
            assert module.scales is not None
            data = np.empty(module.scales.tensor.size, np.uint8)
            read_all(self._inputs[module.scales.file], data.data, module.scales.tensor.begin)
            scales = decode(data.view(module.form.stored), module.form)
            if mean_steps(change.update, scales) < LEAST_STEPS:
                parts = _cut(whole, _rows(module) * _PARTS)
                done = [self._compute(step, block, work) for block in parts]
                sums = sum((some or Sums() for _, some in done), Sums())
                return [span for spans, _ in done for span in spans], sums
        shaper = Shaper(Shape.of(inputs, change.update.left, change.update.right), module.columns)
        fit = learned = None
        if module.target.fitted:
            assert isinstance(module.target.grid, Grid) and calibration is not None
            size = module.target.grid.group_size
            fit = Fit.of(*metric(inputs, change.update.right), size)
            learned = calibration.scales_of(module.path, module.form, (module.rows, module.columns // size))
        spans: list[Span] = []
        size, sums = max(_CHUNK // module.columns, 1), Sums()
        for block in _cut(whole, size):
            first = block.first
            rows, out = self._rows(module, block, work), _room(step, block, work)
            for chosen in blocks_of_rows(first, block.count, change.thresholds.seed):
                if self._stopped.is_set():
                    return spans, None
                sums += shape_rows(rows, module, change.update, shaper, chosen, first, out, fit, learned)
            spans += self._write_all(step, block, out)
        return spans, sums

    def _rows(self, module: PlannedModule, block: Block, work: Arrays) -> StoredRows:
        weight = self._read_rows(module.weight.file, module.weight.tensor, module, block, "raw", work)
        if module.grid is None:
            return StoredRows(weight.view(module.form.stored))
        parts = [
            None if source is None else self._read_rows(source.file, source.tensor, module, block, name, work)
            for name, source in (("scales", module.scales), ("biases", module.biases))
        ]
        if module.biases is not None:
            parts = [None if part is None else part.view(module.form.stored) for part in parts]
        return StoredRows(weight.view(np.uint32), *parts)

    def _read_rows(
        self, file: str, tensor: Tensor, module: PlannedModule, block: Block, name: str, work: Arrays
    ) -> Array:
        width = tensor.size // module.rows
        data = self._read(file, tensor.begin + block.first * width, block.count * width, name, work)
        return data.reshape(block.count, width)

    def _read(self, file: str, offset: int, size: int, name: str, work: Arrays) -> Array:
        data = work.bytes(size, name)
        read_all(self._inputs[file], data.data, offset)
        return data

    def _write_all(self, step: ComputeStep, block: Block, out: StoredRows) -> list[Span]:
        places = ((step.weight, out.weight), (step.scales, out.scales), (step.biases, out.biases))
        return [
            self._write(place, block.first * (data.nbytes // block.count), data.reshape(-1).view(np.uint8))
            for place, data in places
            if place is not None and data is not None
        ]

    def _write(self, place: OutputPlace, offset: int, data: Array) -> Span:
        begin = place.offset + offset
        if self._outputs is not None:
            write_all(self._outputs[place.output], data.data, begin)
        return Span(place.output, begin, begin + data.nbytes)

    def _change(self, module: PlannedModule, expert: int) -> Change:
        with self._lock:
            change = self._changes.get((module.path, expert))
            if change is None:
                while len(self._changes) >= self._modules:
                    self._changes.popitem(last=False)
                change = self._changes[module.path, expert] = self._prepare(module, expert)
            return change

    def _prepare(self, module: PlannedModule, expert: int) -> Change:
        update = read_update(module, expert, self._factors)
        magnitudes = None
        if module.parts and (m := module.parts[0].factors.m) is not None:
            magnitudes = decode(read_stored(m, self._factors[module.parts[0].path]), FORMATS[m.dtype])
            if not np.isfinite(magnitudes).all():
                raise FusionUnsupportedError(f"the magnitudes of {module.path} are not finite")
        target, grid, thresholds = module.target, module.target.grid, None
        if target.dither or target.shaped or target.biases:
            thresholds = Thresholds.of(self._policy.seed, f"{module.path}/{expert}")
        constant = grid is not None and target.biases and constant_in_groups(update.right, grid.group_size)
        return Change(update, magnitudes, thresholds, constant)


def _room(step: ComputeStep, block: Block, work: Arrays) -> StoredRows:
    module, count = step.module, block.count
    grid = module.target.grid
    if grid is None:
        return StoredRows(_array(work, "out", count, module.columns, module.target.form.stored))
    weight = _array(work, "out", count, grid.words(module.columns), np.dtype(np.uint32))
    groups, stored = module.columns // grid.group_size, grid.stored
    scales = None if step.scales is None else _array(work, "out scales", count, groups, stored)
    biases = None if step.biases is None else _array(work, "out biases", count, groups, stored)
    return StoredRows(weight, scales, biases)


def _array(work: Arrays, name: str, rows: int, columns: int, stored: np.dtype[Any]) -> Array:
    return work.bytes(rows * columns * stored.itemsize, name).view(stored).reshape(rows, columns)


def read_update(module: PlannedModule, expert: int, files: Mapping[Path, int]) -> Update:
    """Return the update of a module or of one of its experts; one that changes nothing where there are no tensors."""
    # Several adapters make one update, whose rank is the sum of theirs: what `mlx_lm.fuse` makes of an adapter whose
    # factors are those of all, one behind the other.
    if not module.parts:
        return Update(np.zeros((1, module.rows), np.float32), np.zeros((1, module.columns), np.float32), F32)
    updates = []
    for part in module.parts:
        factors = part.factors
        number = expert if factors.switch else None
        a, b = (read_stored(tensor, files[part.path], number) for tensor in (factors.a, factors.b))
        if factors.switch:  # an expert's factors stand the other way round than those of a linear layer
            a, b = a.T, b.T
        forms = FORMATS[factors.a.dtype], FORMATS[factors.b.dtype]
        inner, after = (1.0, part.scale) if module.once and factors.m is None else (part.scale, 1.0)
        try:
            updates.append(replace(Update.of(a, b, *forms, inner, embedding=module.embedding), after=after))
        except NotFiniteError:
            raise FusionUnsupportedError(f"the update of {module.path} is not finite") from None
    same = len({update.form.name for update in updates}) == 1
    left, right = (np.concatenate([getattr(one, side) for one in updates]) for side in ("left", "right"))
    return Update(left, right, updates[0].form if same else F32, updates[0].after)
