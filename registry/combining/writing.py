"""Making a new adapter's weights module by module, and writing them as they come."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.failures import os_failures
from fusery.storage.safetensors import build_header

from ..comparison.modules import WORKERS
from ..errors import BadInputError, FusionUnsupportedError
from .methods import Made, Mask, Weighted, combine
from .plan import Module, Plan
from .source import Source

Array = NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """How much of the weighted sum of the updates, S, a new update has.

    Attributes:
        norm: squared Frobenius norm of S.
        product: its inner product with the new update.
        square: squared norm of the new update.
    """

    norm: float
    product: float
    square: float

    @classmethod
    def of(cls, parts: Sequence[Figures | Made]) -> Figures:
        """Return the figures of updates that share no numbers, taken together."""
        return cls(
            math.fsum(part.norm for part in parts),
            math.fsum(part.product for part in parts),
            math.fsum(part.square for part in parts),
        )

    @property
    def retained(self) -> float | None:
        """The share of S that is there, <new, S> / <S, S>; None where S is zero."""
        return self.product / self.norm if self.norm else None

    @property
    def relative_error(self) -> float | None:
        """Norm of the difference of the two over that of S; None where S is zero."""
        if not self.norm:
            return None
        return math.sqrt(max(0.0, self.norm - 2 * self.product + self.square) / self.norm)


def measure(adapters: Sequence[Source], plan: Plan) -> dict[str, Figures]:
    """Return the figures of each module of what would be made; nothing is written.

    Args:
        adapters: open, in the order of the plan's weights.
        plan: what to make.

    Raises:
        FusionUnsupportedError: a number is not finite.
        BlobCorruptError: a file ends before it should.
    """
    return {module.path: Figures.of(made) for module, made in _each(adapters, plan, figures_only=True)}


def write(
    adapters: Sequence[Source],
    plan: Plan,
    path: Path,
    progress: Progress | None = None,
) -> dict[str, Figures]:
    """Write a new adapter's safetensors file, and return the figures of each module.

    The same bytes for the same adapters and plan, whatever the number of modules that are worked on at once.

    Args:
        adapters: as `measure` has it.
        plan: as `measure` has it.
        path: the file; there is none yet.
        progress: told the bytes that are written, and all.

    Raises:
        BadInputError: a number of the new adapter is beyond float32.
        FusionUnsupportedError: a number of an adapter is not finite.
        StorageError: it cannot be written.
        BlobCorruptError: a file ends before it should.
    """
    entries = plan.entries()
    total, done = sum(4 * math.prod(shape) for _, _, shape in entries), 0
    found = {}
    with os_failures(f"write {path}", near=path.parent), path.open("xb") as file:
        file.write(build_header(entries))
        for module, made in _each(adapters, plan, figures_only=False):
            found[module.path] = Figures.of(made)
            for factors in ([each.a for each in made], [each.b for each in made]):
                for factor in factors:
                    assert factor is not None
                    # An expert's factors stand the other way round than those of a linear layer.
                    laid = np.ascontiguousarray(factor.T if module.switch else factor, dtype="<f4")
                    file.write(laid.data)
                    done += laid.nbytes
            if progress is not None:
                progress(done, total)
    return found


def _each(
    adapters: Sequence[Source], plan: Plan, *, figures_only: bool
) -> Iterator[tuple[Module, list[Made]]]:
    """Yield the modules with what was made of each, in their order, never more than a few of them in memory."""
    waiting: deque[tuple[Module, Future[list[Made]]]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for module in plan.modules:
                waiting.append(
                    (module, pool.submit(_make, adapters, plan, module, figures_only=figures_only))
                )
                if len(waiting) > WORKERS:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            for _, left in waiting:
                left.cancel()


def _make(
    adapters: Sequence[Source],
    plan: Plan,
    module: Module,
    *,
    figures_only: bool,
) -> list[Made]:
    choice, digests = plan.choice, [adapter.digest for adapter in adapters]
    made = []
    for part in range(module.parts):
        updates = [
            Weighted(number, adapters[number].read(module.path, part), choice.weights[number])
            for number in module.holders
        ]
        try:
            found = combine(
                updates,
                choice.arithmetic,
                rank=plan.rank,
                density=1.0 if choice.density is None else choice.density,
                mask=mask_of(choice.seed or 0, digests, choice.density or 1.0, f"{module.path}#{part}"),
                figures_only=figures_only,
            )
        except ValueError as error:
            if error.args != ("not finite",):
                raise
            names = " or ".join(adapters[number].name for number in module.holders)
            raise FusionUnsupportedError(
                f"an update of {module.path} in {names} holds numbers that are not finite"
            ) from None
        if not all(np.isfinite(factor).all() for factor in (found.a, found.b) if factor is not None):
            raise BadInputError(
                f"numbers of {module.path} are too large for float32", hint="--weights with smaller ones"
            )
        if figures_only and found.a is not None:
            found = Made(None, None, found.norm, found.product, found.square)
        made.append(found)
    return made


def mask_of(seed: int, digests: Sequence[str], density: float, module: str) -> Mask:
    """Return what says which numbers DARE keeps: each on its own with the probability `density`.

    What is kept follows from the seed, the adapter's digest and place among the others, and the tensor's name alone, through
    SHA-256 and Philox 4x64, whose stream is the same with every NumPy and on every machine.

    Args:
        seed: not negative.
        digests: of the adapters.
        density: over 0 and under 1.
        module: its path, and which expert it is of.
    """
    bound = np.uint32(min(round(density * 2**32), 2**32 - 1))

    def mask(number: int, which: str, shape: tuple[int, ...]) -> Array:
        text = f"dare {seed} {number} {digests[number]} {module}.{which}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        size = math.prod(shape)
        drawn = np.random.Philox(key=key).random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")
        kept: Array = (drawn[:size] < bound).reshape(shape)
        return kept

    return mask
