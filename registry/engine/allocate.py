"""Which module gets how many bits, under a budget: where another byte brings back most of the update.

What a module lacks is the squared norm of the part of its update that is not there, |D|^2 (1 - retained)^2, and a
hundredth of the noise that came with it: behaviour follows the first (docs/measurements.md).  Steps to more bits,
also over several widths at once, are taken in the order of what they bring per byte, as in the greedy solution of
the knapsack problem; one that does not fit is passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .affine import Grid
from .fidelity import Fidelity, ModuleFidelity
from .grids import AFFINE, AnyGrid
from .recipe import OWN

_NOISE = 0.01


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a recipe would give.

    Attributes:
        fidelity: what each module retains.
        size: bytes of the weight files.
        sizes: bytes that each touched module takes of them.
        own: what a recipe calls the format that the base has of each, by `own_bits`.
    """

    fidelity: Fidelity
    size: int
    sizes: Mapping[str, int]
    own: Mapping[str, int] = field(default_factory=dict)


def own_bits(grid: AnyGrid | None, quantization: Mapping[str, Any] | None) -> int:
    """Return what the recipe of `mixed` calls the format that a module has in the base.

    Args:
        grid: of the module; one that is plain stays so whatever is said, and is called as the base is.
        quantization: MLX's entry of the base.
    """
    if isinstance(grid, Grid):
        return grid.bits
    usual = quantization or {}
    return int(usual.get("bits", OWN)) if grid is None and usual.get("mode", AFFINE) == AFFINE else OWN


def allocate(samples: Mapping[int, Sampled], room: float) -> dict[str, int]:
    """Return the bits of every touched module.

    Args:
        samples: what each number of bits would give, if all modules had it; under `OWN`, where they start, as the base has them.
        room: bytes that may be added.
    """
    levels = sorted(samples)
    kept = samples[OWN]
    sizes = {path: [samples[bits].sizes[path] for bits in levels] for path in kept.sizes}
    lacks: dict[str, list[float]] = {path: [] for path in sorted(sizes)}
    for bits in levels:
        for module in samples[bits].fidelity.modules:
            lacks[module.module].append(_lack(module))
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


def _lack(module: ModuleFidelity) -> float:
    missing = (1 - module.retained) ** 2
    noise = max(module.relative_error**2 - missing, 0.0)
    return module.norm**2 * (missing + _NOISE * noise)
