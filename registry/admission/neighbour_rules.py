"""Rules about what is registered already: that the adapter is not there yet, under this or another name."""

from __future__ import annotations

from collections.abc import Iterator

from ..adapters.files import WEIGHTS
from ..adapters.finding import Finding
from .candidate import Candidate
from .code import Code, rule

NEAR = 0.95
"""Cosine between two updates from which one is called nearly the same as the other."""

DUPLICATE_WEIGHTS = Code(
    "duplicate_weights",
    "warning",
    "the same weights are registered for another task, or with another configuration",
    "one of the two records says something that the training run does not bear out",
    "if it is one adapter for two uses, give it an alias instead: fusery show NAME",
)
NEAR_DUPLICATE = Code(
    "near_duplicate",
    "warning",
    f"the update points in almost the same direction as that of a registered adapter (cosine {NEAR} or more)",
    "it is probably the same run: converted, rescaled, or trained for a few steps more",
    "compare the two: fusery diff A B --weights",
)


@rule(DUPLICATE_WEIGHTS, NEAR_DUPLICATE)
def not_there_yet(candidate: Candidate) -> Iterator[Finding]:
    """No registered adapter on the base has the same weights, or nearly the same update."""
    task = candidate.declared.task or candidate.task
    known = candidate.neighbours()
    if any(other.same_adapter and other.task == task for other in known):
        return  # it is on record already, and whoever gave the same to another task was told then
    for other in known:
        if other.same_bytes:
            # The same factors beside other whole tensors are another adapter.
            if other.same_file or not candidate.whole:
                message = f"these weights are registered as {other.name} on {other.base}"
                if other.yanked is not None:
                    message += f", which is yanked: {other.yanked}"
                yield DUPLICATE_WEIGHTS.found(
                    WEIGHTS, message, f"see what it was made for: fusery show {other.name}"
                )
        elif other.similarity >= NEAR:
            message = f"the update is {_percent(other.similarity)} the same as that of {other.name}"
            compare = f"fusery diff {other.name} {task}@{candidate.declared.version or 'latest'} --weights"
            hint = (
                f"once it is registered, compare: {compare}"
                if task
                else f"see what it is: fusery show {other.name}"
            )
            yield NEAR_DUPLICATE.found(WEIGHTS, message, hint)


def _percent(share: float) -> str:
    # 99.96 % is not 100 %.
    return f"{min(share * 100, 99.9):.1f} %" if share < 1 - 1e-6 else "100 %"
