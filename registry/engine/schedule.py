"""The order of work, which changes no byte: blocks in any order, and files to hash, each as far as it is complete."""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusery.storage.digest import Digest

from .plan import CopyStep, Step
from .work import Block, Span, blocks_of, cost

CHUNK = 1 << 20  # Bytes hashed at a time
_AHEAD = 32 << 20
_BACKLOG = 256 << 20
_HASH_COST = 0.55


@dataclass(slots=True)
class Chain:
    """A file that is hashed from its first byte to its last, by now up to `reach`."""

    descriptor: int
    size: int
    reach: int = 0
    position: int = 0
    busy: bool = False
    running: Any = field(default_factory=hashlib.sha256)
    _apart: list[tuple[int, int]] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether a chunk, or the rest, may be hashed."""
        waiting = self.reach - self.position
        return not self.busy and (waiting >= CHUNK or 0 < waiting == self.size - self.position)

    @property
    def left(self) -> int:
        """Bytes to hash until the end."""
        return self.size - self.position

    @property
    def digest(self) -> Digest:
        """The digest, once nothing is left."""
        return Digest(self.running.hexdigest())

    def complete(self, begin: int, end: int) -> None:
        """Note that a range has been written; ranges may come in any order."""
        heapq.heappush(self._apart, (begin, end))
        while self._apart and self._apart[0][0] <= self.reach:
            self.reach = max(self.reach, heapq.heappop(self._apart)[1])


@dataclass(frozen=True, slots=True)
class Hash:
    """A task: hash the next `size` bytes of a chain."""

    chain: Chain
    offset: int
    size: int


class Schedule:
    """Hands out tasks to threads until all is done or one of them gives up."""

    def __init__(
        self, steps: Sequence[Step], outputs: Sequence[Chain], inputs: dict[str, Chain], threads: int
    ) -> None:
        """Prepare the work; `inputs` are the chains of the files of the base that are to be verified, by name."""
        self.written = 0
        self._outputs, self._inputs = outputs, inputs
        self._chains = [*outputs, *inputs.values()]
        self._threads = threads
        self._blocks: Iterator[Block] = (block for step in steps for block in blocks_of(step))
        self._next: Block | None = next(self._blocks, None)
        self._cost = sum(cost(step) for step in steps)
        self._flying = 0
        self._stopped = False
        self._changed = threading.Condition()
        if self._next is None:
            self._open_inputs()

    @property
    def finished(self) -> bool:
        """Nothing is left to do, or a thread gave up."""
        idle = self._next is None and not self._flying
        return self._stopped or (idle and not any(chain.left for chain in self._chains))

    def take(self, timeout: float) -> Block | Hash | None:
        """Return a task, or None if there was none within `timeout` seconds."""
        with self._changed:
            while not self.finished:
                if (task := self._choose()) is not None:
                    self._flying += 1
                    return task
                if not self._changed.wait(timeout):
                    break
            return None

    def done(self, task: Block | Hash, spans: Iterable[Span] = ()) -> None:
        """Give a task back, with the ranges of the outputs that it filled."""
        with self._changed:
            self._flying -= 1
            if isinstance(task, Hash):
                task.chain.position += task.size
                task.chain.busy = False
            for span in spans:
                self._outputs[span.output].complete(span.begin, span.end)
                self.written += span.end - span.begin
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more tasks."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _choose(self) -> Block | Hash | None:
        ready = [chain for chain in self._chains if chain.ready]
        chain = max(ready, key=lambda chain: chain.left, default=None)
        behind = next((chain for chain in ready if chain.reach - chain.position > _BACKLOG), None)
        if behind is not None:
            return self._hash(behind)
        if self._next is None or (
            chain is not None and chain.left * _HASH_COST >= self._cost / self._threads
        ):
            return self._hash(chain) if chain is not None else None
        return self._block(self._next)

    def _hash(self, chain: Chain) -> Hash:
        chain.busy = True
        return Hash(chain, chain.position, min(CHUNK, chain.reach - chain.position))

    def _block(self, block: Block) -> Block:
        self._cost -= block.cost
        source = block.step if isinstance(block.step, CopyStep) else block.step.module.weight
        if (chain := self._inputs.get(source.file)) is not None:
            # The base is hashed near to where it is being read, while its pages are in memory.
            chain.reach = max(chain.reach, min(chain.size, block.source_end + _AHEAD))
        self._next = next(self._blocks, None)
        if self._next is None:
            self._open_inputs()
        return block

    def _open_inputs(self) -> None:
        for chain in self._inputs.values():
            chain.reach = chain.size
