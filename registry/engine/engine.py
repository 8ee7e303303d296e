"""Carrying out a plan: streaming, on a few threads, with SHA-256 over the bytes as they come to lie in the files.

Memory does not grow with the model: a thread holds a few blocks, and the page cache holds the rest.  Bytes do not
depend on the number of threads, nor do the fidelity figures.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusery.storage.digest import Digest, digest_bytes, digest_file
from fusery.storage.errors import BlobCorruptError
from fusery.storage.manifest import FileEntry
from fusery.storage.room import Need, require_rooms

from .config import weight_names
from .fidelity import Fidelity, Sums
from .files import create_output, open_input, read_all, told_plainly
from .plan import Compute, Plan
from .schedule import CHUNK, Chain, Hash, Schedule
from .work import Block, Worker
from .workspace import Workspace

_BUFFER = 512
_CHECK_BYTES = 32 << 20
_CHECK_SECONDS = 0.5
_WAIT = 0.05


@dataclass(frozen=True, slots=True)
class Fused:
    """What a fuse wrote.

    Attributes:
        files: every file of the folder, sorted by path.
        fidelity: how much of the adapter's update is in the weights.
        seconds: wall time.
    """

    files: tuple[FileEntry, ...]
    fidelity: Fidelity
    seconds: float


def fuse(
    plan: Plan,
    folder: Path,
    *,
    threads: int = 2,
    expected: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Fused:
    """Write a fused model.

    Args:
        plan: what to write.
        folder: an existing empty folder.
        threads: how many to compute with, this one among them.
        expected: SHA-256 of files of the base, by name; what is read of them is verified in the same pass.
        progress: called with the bytes of weights written so far, up to `plan.size`; from this thread.
        check: called every 64 MB or half a second from this thread; raises to give up.

    Raises:
        BlobCorruptError: a file of the base is not what `expected` says.
        FusionUnsupportedError: the adapter or a quantised weight holds a number that is not finite.
        OutOfSpaceError: there is no room.
        StorageError: reading or writing failed otherwise.
    """
    started = time.monotonic()
    expected = expected or {}
    require_rooms([Need(folder, plan.sizes)], hint="fusery cache prune")
    with told_plainly(folder):
        files, fidelity = _write_weights(plan, folder, threads, expected, _Watch(progress, check))
        files += [_write_document(folder / name, data) for name, data in plan.documents.items()]
        files += [_copy_file(plan.base.files[name], folder, name, expected.get(name)) for name in plan.copies]
    if "config.json" in expected and "config.json" in plan.base.files:
        _require("config.json", digest_file(plan.base.files["config.json"])[0], expected["config.json"])
    return Fused(tuple(sorted(files)), fidelity, time.monotonic() - started)


def _write_weights(
    plan: Plan, folder: Path, threads: int, expected: Mapping[str, str], watch: _Watch
) -> tuple[list[FileEntry], Fidelity]:
    with ExitStack() as stack:

        def held(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        # Files of the base that nothing is copied from are verified too: tensors may have been computed from them.
        read = {source.file for source in plan.base.tensors.values()}
        names = sorted(read | (expected.keys() & set(weight_names(plan.base.files))))
        inputs = {name: held(open_input(plan.base.files[name])) for name in names}
        adapters = {part.path for module in plan.modules for part in module.parts}
        factors = {path: held(open_input(path)) for path in sorted(adapters)}
        outputs = [held(create_output(folder / out.name, out.header, out.size)) for out in plan.outputs]
        written = [
            Chain(descriptor, out.size, reach=len(out.header))
            for descriptor, out in zip(outputs, plan.outputs, strict=True)
        ]
        verified = {
            name: Chain(inputs[name], os.fstat(inputs[name]).st_size) for name in names if name in expected
        }
        worker = Worker(plan.policy, inputs, outputs, factors, threads + 1)
        run = _Run(Schedule(plan.steps, written, verified, threads), worker)
        run.all(threads, watch)
        for name, chain in verified.items():
            _require(name, chain.digest, expected[name])
    watch.finish(plan.size)
    entries = [
        FileEntry(out.name, out.size, chain.digest) for out, chain in zip(plan.outputs, written, strict=True)
    ]
    return entries, run.fidelity(plan)


class _Watch:
    """Calls back from the main thread, often enough and not too often."""

    def __init__(self, progress: Callable[[int], None] | None, check: Callable[[], None] | None) -> None:
        self._progress, self._check = progress, check
        self._bytes, self._time = 0, time.monotonic()

    def look(self, written: int) -> None:
        now = time.monotonic()
        if written - self._bytes < _CHECK_BYTES and now - self._time < _CHECK_SECONDS:
            return
        self._bytes, self._time = written, now
        if self._check is not None:
            self._check()
        if self._progress is not None:
            self._progress(written)

    def finish(self, size: int) -> None:
        if self._check is not None:
            self._check()
        if self._progress is not None:
            self._progress(size)


class _Run:
    """The threads at work on one schedule."""

    def __init__(self, schedule: Schedule, worker: Worker) -> None:
        self._schedule, self._worker = schedule, worker
        self._sums: dict[tuple[str, int], Sums] = {}

    def all(self, threads: int, watch: _Watch) -> None:
        """Do everything with this thread and `threads - 1` more; the first failure is raised here."""
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

    def fidelity(self, plan: Plan) -> Fidelity:
        """Add up what every block retained, always in the same order."""
        totals = {module.path: Sums() for module in plan.modules}
        for path, first in sorted(self._sums):
            totals[path] += self._sums[path, first]
        return Fidelity.of(totals, plan.replaced)

    def _help(self) -> None:
        try:
            with numpy_tuned():
                for _ in self._tasks():
                    pass
        finally:
            # Either all is done, or this thread failed and the others must not wait for it.
            self._schedule.stop()

    def _tasks(self) -> Iterator[int]:
        """Carry out tasks until none is left; yield the bytes written so far after each."""
        work, buffer, schedule = Workspace(), np.empty(CHUNK, np.uint8), self._schedule
        while not schedule.finished:
            task = schedule.take(_WAIT)
            if isinstance(task, Hash):
                data = buffer[: task.size]
                read_all(task.chain.descriptor, data.data, task.offset)
                task.chain.running.update(data)
                schedule.done(task)
            elif isinstance(task, Block):
                spans, sums = self._worker.run(task, work)
                if sums is not None and isinstance(task.step, Compute):
                    self._sums[task.step.module.path, task.first] = sums
                schedule.done(task, spans)
            yield schedule.written


@contextmanager
def numpy_tuned() -> Iterator[None]:
    """Set NumPy up for this thread: no warnings about numbers, and no buffers.

    NumPy copies both operands of a product of a row and a column into buffers where rows are shorter than a fourth
    of the buffer; with a small buffer it does not, which makes those products more than twice as fast.
    """
    with np.errstate(all="ignore"):
        before = np.setbufsize(_BUFFER)
        try:
            yield
        finally:
            np.setbufsize(before)


def _write_document(path: Path, data: bytes) -> FileEntry:
    path.write_bytes(data)
    return FileEntry(path.name, len(data), digest_bytes(data))


def _copy_file(source: Path, folder: Path, name: str, expected: str | None) -> FileEntry:
    running, size = hashlib.sha256(), 0
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    with os.fdopen(open_input(source), "rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            running.update(chunk)
            size += writer.write(chunk)
    digest = Digest(running.hexdigest())
    if expected is not None:
        _require(name, digest, expected)
    return FileEntry(name, size, digest)


def _require(name: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise BlobCorruptError(
            f"the base's {name} is not what was recorded: its SHA-256 is {digest[:12]}, recorded is {expected[:12]}",
            hint="fusery audit",
        )
