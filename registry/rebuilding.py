"""The command that makes a fused artifact again, from what is on record about it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .fuse_request import WIDER

_MARGIN = 0.01
"""How far a sample may be from the whole; a step of one bit changes the share retained by far more."""


def rebuild_command(
    adapter: str,
    recipe: Mapping[str, Any],
    extras: Sequence[tuple[str, float]],
    *,
    base_bits: int | None,
    verdict: str,
    retained: float | None,
    times: float,
) -> str:
    """Return the `fusery fuse` that gives this recipe, and so this key.

    The number of bits of `mixed` is no option of that command: it follows from the least share that is asked for, and
    bits module by module follow from the budget.

    Args:
        adapter: its name.
        recipe: as `Recipe.to_dict` has it.
        extras: further adapters and their weights.
        base_bits: bits of the base's quantisation, None if it is dense.
        verdict: of the fuse.
        retained: share of the update.
        times: size of the weights as a multiple of the base's.
    """
    words = ["fusery", "fuse", adapter, *_precision(recipe, base_bits, retained, times)]
    if recipe.get("scale") is not None:
        words += ["--scale", repr(float(recipe["scale"]))]
    for name, weight in extras:
        words += ["--with", f"{name}:{weight!r}"]
    if recipe.get("seed"):
        words += ["--seed", str(recipe["seed"])]
    if verdict == "LOST":
        words.append("--accept-loss")
    return shlex.join(words)


def _precision(
    recipe: Mapping[str, Any], base_bits: int | None, retained: float | None, times: float
) -> list[str]:
    if (shape := recipe.get("quantization")) is not None:
        return [
            *("--quantize", str(shape["bits"])),
            *("--group-size", str(shape["group_size"])),
            *("--mode", str(shape["mode"])),
        ]
    words = ["--precision", str(recipe["precision"])]
    bits = recipe.get("bits")
    if not bits:
        return words
    if set(bits) != {""}:
        return [*words, "--budget", f"{math.ceil(times * 1e6) / 1e6}x"]
    least = next((wider for wider in WIDER if wider > (base_bits or 0)), None)
    if bits[""] != least and retained is not None and retained > _MARGIN:
        words += ["--min-fidelity", f"{math.floor(min(retained - _MARGIN, 1.0) * 100) / 100}"]
    return words
