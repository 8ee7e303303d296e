"""Which module gets how many bits, under a budget: where another byte brings back most of the update.

What a module lacks is the squared norm of the part of its update that is not there, |D|^2 (1 - retained)^2, and a
hundredth of the noise that came with it: behaviour follows the first (docs/measurements.md).  Steps to more bits,
also over several widths at once, are taken in the order of what they bring per byte, as in the greedy solution of
the knapsack problem; one that does not fit is passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .fidelity import Fidelity, ModuleFidelity

_NOISE = 0.01


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a recipe would give.

    Attributes:
        fidelity: what each module retains.
        size: bytes of the weight files.
        numbers: in the weight of each touched module.
    """

    fidelity: Fidelity
    size: int
    numbers: Mapping[str, int]


def allocate(samples: Mapping[int, Sampled], room: float) -> dict[str, int]:
    """Return the bits of every touched module.

    Args:
        samples: what each number of bits would give, if all modules had it; the smallest is where they start.
        room: bytes that may be added.
    """
    levels = sorted(samples)
    numbers = samples[levels[0]].numbers
    lacks: dict[str, list[float]] = {path: [] for path in sorted(numbers)}
    for bits in levels:
        for module in samples[bits].fidelity.modules:
            lacks[module.module].append(_lack(module))
    reached = dict.fromkeys(lacks, 0)
    heap = [step for path in lacks for step in _steps(path, 0, levels, lacks[path], numbers[path])]
    heapq.heapify(heap)
    while heap:
        _, path, start, end, cost = heapq.heappop(heap)
        if reached[path] != start or cost > room:
            continue
        room -= cost
        reached[path] = end
        for step in _steps(path, end, levels, lacks[path], numbers[path]):
            heapq.heappush(heap, step)
    return {path: levels[level] for path, level in reached.items()}


def _steps(
    path: str, start: int, levels: list[int], lacks: list[float], numbers: int
) -> Iterator[tuple[float, str, int, int, int]]:
    """Yield the steps of a module from a level: the change per byte, and from where to where for how many bytes."""
    for end in range(start + 1, len(levels)):
        cost = max(numbers * (levels[end] - levels[start]) // 8, 1)
        if lacks[end] < lacks[start]:
            yield (lacks[end] - lacks[start]) / cost, path, start, end, cost


def _lack(module: ModuleFidelity) -> float:
    missing = (1 - module.retained) ** 2
    noise = max(module.relative_error**2 - missing, 0.0)
    return module.norm**2 * (missing + _NOISE * noise)
