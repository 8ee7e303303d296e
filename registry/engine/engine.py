"""Carry out a plan: streaming, on a few threads, whose number changes neither bytes nor fidelity."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.copying import pump
from fusery.storage.digest import digest_bytes, digest_file
from fusery.storage.errors import BlobCorruptError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry
from fusery.storage.transfer import Need, require_rooms

from .affine import Grid
from .config import weight_names
from .fidelity import FuseFidelity, Sums
from .files import OpenFiles, create_output, open_input, read_all
from .grids import AFFINE, AnyGrid
from .plan import ComputeStep, FusePlan
from .recipe import OWN
from .rows import Arrays
from .schedule import CHUNK, Chain, Hash, Schedule
from .work import Block, Worker

_BUFFER = 512
_CHECK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class FuseResult:
    """The files of the folder, sorted by path, and the fidelity of the weights."""

    files: tuple[FileEntry, ...]
    fidelity: FuseFidelity


def fuse(
    plan: FusePlan,
    folder: Path,
    *,
    threads: int = 2,
    expected: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
    check: Callable[[], None] | None = None,
) -> FuseResult:
    """Write a fused model; files of the base with an `expected` SHA-256 are verified in the same pass."""
    # From this thread, `progress` is called with the bytes of weights written so far, and `check` may raise to give up.
    expected = expected or {}
    require_rooms([Need(folder, plan.sizes)], hint="fusery admin cache prune")
    with os_failures(f"write to {folder}", near=folder):
        files, fidelity = _write_weights(plan, folder, threads, expected, _Watch(progress, check))
        for name, data in plan.documents.items():
            (folder / name).write_bytes(data)
            files.append(FileEntry(name, len(data), digest_bytes(data)))
        files += [_copy_file(plan.base.files[name], folder, name, expected.get(name)) for name in plan.copies]
    if "config.json" in expected and "config.json" in plan.base.files:
        _require("config.json", digest_file(plan.base.files["config.json"])[0], expected["config.json"])
    return FuseResult(tuple(sorted(files)), fidelity)


def _write_weights(
    plan: FusePlan, folder: Path, threads: int, expected: Mapping[str, str], watch: _Watch
) -> tuple[list[FileEntry], FuseFidelity]:
    with OpenFiles() as stack:
        # Files of the base that nothing is copied from are verified too: tensors may have been computed from them.
        read = {source.file for source in plan.base.tensors.values()}
        names = sorted(read | (expected.keys() & set(weight_names(plan.base.files))))
        inputs = {name: stack.hold(open_input(plan.base.files[name])) for name in names}
        factors = stack.inputs(part.path for module in plan.modules for part in module.parts)
        outputs = [stack.hold(create_output(folder / out.name, out.header, out.size)) for out in plan.outputs]
        opened = zip(outputs, plan.outputs, strict=True)
        written = [Chain(descriptor, out.size, reach=len(out.header)) for descriptor, out in opened]
        sizes = {name: os.fstat(inputs[name]).st_size for name in names if name in expected}
        verified = {name: Chain(inputs[name], size) for name, size in sizes.items()}
        worker = Worker(plan.policy, inputs, outputs, factors, threads + 1)
        run = _Threads(Schedule(plan.steps, written, verified, threads), worker)
        run.all(threads, watch)
        for name, chain in verified.items():
            _require(name, chain.digest, expected[name])
    watch.call(plan.size)
    chains = zip(plan.outputs, written, strict=True)
    return [FileEntry(out.name, out.size, chain.digest) for out, chain in chains], run.fidelity(plan)


class _Watch:
    """Calls back from the main thread, twice a second."""

    def __init__(self, progress: Callable[[int], None] | None, check: Callable[[], None] | None) -> None:
        self._progress, self._check, self._next = progress, check, 0.0

    def look(self, written: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _CHECK_SECONDS
            self.call(written)

    def call(self, written: int) -> None:
        if self._check is not None:
            self._check()
        if self._progress is not None:
            self._progress(written)


class _Threads:
    def __init__(self, schedule: Schedule, worker: Worker) -> None:
        self._schedule, self._worker = schedule, worker
        self._sums: dict[tuple[str, int], Sums] = {}

    def all(self, threads: int, watch: _Watch) -> None:
        with ThreadPoolExecutor(max(threads - 1, 1), "fuse") as pool:
            helpers = [pool.submit(self._help) for _ in range(threads - 1)]
            try:
                with numpy_tuned():
                    for written in self._tasks():
                        watch.look(written)
            finally:
                self._schedule.stop()
                self._worker.stop()
        for helper in helpers:
            helper.result()

    def fidelity(self, plan: FusePlan) -> FuseFidelity:
        """Add up what every block retained, always in the same order."""
        totals = {module.path: Sums() for module in plan.modules}
        for path, first in sorted(self._sums):
            totals[path] += self._sums[path, first]
        return FuseFidelity.of(totals, plan.replaced, shaped=plan.policy.is_mixed_and_shaped)

    def _help(self) -> None:
        try:
            with numpy_tuned():
                for _ in self._tasks():
                    pass
        finally:
            # Either all is done, or this thread failed and the others must not wait for it.
            self._schedule.stop()

    def _tasks(self) -> Iterator[int]:
        work, buffer, schedule = Arrays(), np.empty(CHUNK, np.uint8), self._schedule
        while not schedule.finished:
            task = schedule.take(timeout=0.05)
            if isinstance(task, Hash):
                data = buffer[: task.size]
                read_all(task.chain.descriptor, data.data, task.offset)
                task.chain.running.update(data)
                schedule.done(task)
            elif isinstance(task, Block):
                spans, sums = self._worker.run(task, work)
                if sums is not None and isinstance(task.step, ComputeStep):
                    self._sums[task.step.module.path, task.first] = sums
                schedule.done(task, spans)
            yield schedule.written


@contextmanager
def numpy_tuned() -> Iterator[None]:
    """Set NumPy up for this thread: no warnings about numbers, and no buffers."""
    # NumPy copies both operands of a product of a row and a column into buffers where rows are shorter than a fourth
    # of the buffer; with a small buffer it does not, which makes those products more than twice as fast.
    with np.errstate(all="ignore"):
        before = np.setbufsize(_BUFFER)
        try:
            yield
        finally:
            np.setbufsize(before)


def _copy_file(source: Path, folder: Path, name: str, expected: str | None) -> FileEntry:
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    with os.fdopen(open_input(source), "rb") as reader, target.open("x+b") as writer:
        digest, size = pump(reader.fileno(), writer.fileno())
    if expected is not None:
        _require(name, digest, expected)
    return FileEntry(name, size, digest)


def _require(name: str, digest: str, expected: str) -> None:
    if digest != expected:
        message = f"SHA-256 of the base's {name}: {digest[:12]} (recorded: {expected[:12]})"
        raise BlobCorruptError(message, hint="fusery audit")


_SHARE = 8
_FEWEST = 64


def sample(plan: FusePlan, *, threads: int = 2) -> FuseFidelity:
    """Estimate the fidelity of a plan."""
    steps = [step for step in plan.steps if isinstance(step, ComputeStep) and step.module.touched]
    with OpenFiles() as stack:
        names = sorted({source.file for source in plan.base.tensors.values()})
        inputs = {name: stack.hold(open_input(plan.base.files[name])) for name in names}
        factors = stack.inputs(part.path for step in steps for part in step.module.parts)
        worker = Worker(plan.policy, inputs, None, factors, threads + 1)

        def measure(step: ComputeStep) -> Sums:
            total, work = Sums(), Arrays()
            with numpy_tuned():
                for block in _blocks(step):
                    total += worker.run(block, work)[1] or Sums()
            return total

        pool = stack.enter_context(ThreadPoolExecutor(threads, "sample"))
        paths = [step.module.path for step in steps]
        sums = dict(zip(paths, pool.map(measure, steps), strict=True))
        return FuseFidelity.of(sums, shaped=plan.policy.is_mixed_and_shaped)


def _blocks(step: ComputeStep) -> Iterator[Block]:
    """Yield the middle eighth of the rows, of one expert if there are several; at once, where each block pays what others owe."""
    expert_rows = step.module.rows // step.module.experts
    count = min(expert_rows, max(expert_rows // _SHARE, _FEWEST))
    first = step.module.experts // 2 * expert_rows + (expert_rows - count) // 2
    size = count if step.module.target.shaped else _FEWEST
    for start in range(first, first + count, size):
        yield Block(step, start, min(size, first + count - start), 0.0)


_NOISE = 0.01


@dataclass(frozen=True, slots=True)
class Sampled:
    """An estimate of a recipe's model."""

    fidelity: FuseFidelity
    size: int
    sizes: Mapping[str, int]  # bytes of each touched module
    own: Mapping[str, int] = field(default_factory=dict)  # `own_bits` of each touched module


def own_bits(grid: AnyGrid | None, quantization: Mapping[str, Any] | None) -> int:
    """Return what the recipe of `mixed` calls the format that a module has in the base; a plain one is called as the base is."""
    if isinstance(grid, Grid):
        return grid.bits
    usual = quantization or {}
    return int(usual.get("bits", OWN)) if grid is None and usual.get("mode", AFFINE) == AFFINE else OWN


def allocate(samples: Mapping[int, Sampled], room: float) -> dict[str, int]:
    """Return the bits of every touched module: where another byte brings back most of the update, as far as there is room."""
    # A module lacks the squared norm of the missing part of its update, |D|^2 (1 - retained)^2, and a hundredth of its
    # noise: behaviour follows the first (docs/measurements.md). Steps to more bits, also over several widths at once,
    # are taken in the order of their gain per byte (the greedy solution of the knapsack problem), if they fit.
    # `samples` has all modules at each number of bits; under `OWN`, where they start, as the base has them.
    levels = sorted(samples)
    kept = samples[OWN]
    sizes = {path: [samples[bits].sizes[path] for bits in levels] for path in kept.sizes}
    lacks: dict[str, list[float]] = {path: [] for path in sorted(sizes)}
    for bits in levels:
        for module in samples[bits].fidelity.modules:
            missing = (1 - module.retained) ** 2
            noise = max(module.relative_error**2 - missing, 0.0)
            lacks[module.module].append(module.norm**2 * (missing + _NOISE * noise))
    reached = dict.fromkeys(lacks, 0)
    heap = [step for path in lacks for step in _steps(path, 0, lacks[path], sizes[path])]
    heapq.heapify(heap)
    while heap:
        _, path, start, end, cost = heapq.heappop(heap)
        if reached[path] != start or cost > room:
            continue
        room -= cost
        reached[path] = end
        for step in _steps(path, end, lacks[path], sizes[path]):
            heapq.heappush(heap, step)
    return {path: levels[level] or kept.own.get(path, OWN) for path, level in reached.items()}


def _steps(
    path: str, start: int, lacks: Sequence[float], sizes: Sequence[int]
) -> Iterator[tuple[float, str, int, int, int]]:
    """Yield the steps of a module from a level: the change per byte, and from where to where for how many bytes."""
    for end in range(start + 1, len(sizes)):
        cost = max(sizes[end] - sizes[start], 1)
        if lacks[end] < lacks[start]:
            yield (lacks[end] - lacks[start]) / cost, path, start, end, cost
