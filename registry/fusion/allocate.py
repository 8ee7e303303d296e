"""Which module gets how many bits, under a budget: where another byte removes most of the error.

The error of a module is the squared norm of what its written change lacks or adds, |R - D|^2; errors of modules add up.
Steps to more bits are taken in the order of error removed per byte (as in the knapsack problem's greedy solution), and
one that does not fit is passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from .fidelity import Fidelity, ModuleFidelity


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
    errors: dict[str, list[float]] = {path: [] for path in numbers}
    for bits in levels:
        for module in samples[bits].fidelity.modules:
            errors[module.module].append(_error(module))
    reached = dict.fromkeys(sorted(errors), 0)

    def step(path: str) -> tuple[float, str, int]:
        level = reached[path]
        cost = numbers[path] * (levels[level + 1] - levels[level]) // 8
        return (errors[path][level + 1] - errors[path][level]) / max(cost, 1), path, cost

    heap = [step(path) for path in reached] if len(levels) > 1 else []
    heapq.heapify(heap)
    while heap:
        change, path, cost = heapq.heappop(heap)
        if cost > room or change >= 0:
            continue
        room -= cost
        reached[path] += 1
        if reached[path] + 1 < len(levels):
            heapq.heappush(heap, step(path))
    return {path: levels[level] for path, level in reached.items()}


def _error(module: ModuleFidelity) -> float:
    return (module.norm * module.relative_error) ** 2
