"""What a fuse would retain, from an eighth of the rows of each touched module, without writing anything.

Good to about a hundredth of the share retained, at a fraction of the time: enough to pass over formats that lose the
adapter.  What is recorded in the end is measured over all rows, while they are written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from .engine import numpy_tuned
from .fidelity import Fidelity, Sums
from .files import open_input
from .plan import Compute, Plan
from .work import Block, Worker
from .workspace import Workspace

_SHARE = 8
_FEWEST = 64


def sample(plan: Plan, *, threads: int = 2, check: Callable[[], None] | None = None) -> Fidelity:
    """Estimate the fidelity of a plan.

    Args:
        plan: what would be written.
        threads: how many to compute with.
        check: called now and then; raises to give up.

    Raises:
        FusionUnsupportedError: an adapter or a quantised weight holds a number that is not finite.
        BlobCorruptError: a file ends before it should.
        MissingFileError: a file cannot be opened.
    """
    steps = [step for step in plan.steps if isinstance(step, Compute) and step.module.touched]
    with ExitStack() as stack:

        def held(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        files = sorted({source.file for source in plan.base.tensors.values()})
        inputs = {name: held(open_input(plan.base.files[name])) for name in files}
        adapters = {part.path for step in steps for part in step.module.parts}
        factors = {path: held(open_input(path)) for path in sorted(adapters)}
        worker = Worker(plan.policy, inputs, None, factors, threads + 1)
        pool = stack.enter_context(ThreadPoolExecutor(threads, "sample"))
        sums = {}
        for step, found in zip(steps, pool.map(_Sampler(worker), steps), strict=True):
            sums[step.module.path] = found
            if check is not None:
                check()
    return Fidelity.of(sums)


class _Sampler:
    """Measures one module at a time, each in a workspace of the thread it runs on."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __call__(self, step: Compute) -> Sums:
        total, work = Sums(), Workspace()
        with numpy_tuned():
            for block in _blocks(step):
                _, sums = self._worker.run(block, work)
                total += sums or Sums()
        return total


def _blocks(step: Compute) -> Iterator[Block]:
    """Yield the middle eighth of the rows, of one expert if there are several; at once, where each block pays what others owe."""
    each = step.module.rows // step.module.experts
    count = min(each, max(each // _SHARE, _FEWEST))
    first = step.module.experts // 2 * each + (each - count) // 2
    size = count if step.module.target.shaped else _FEWEST
    for start in range(first, first + count, size):
        yield Block(step, start, min(size, first + count - start), 0.0)
