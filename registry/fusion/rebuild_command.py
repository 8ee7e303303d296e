"""The command that makes a fused artifact again, from what is on record about it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .request import WIDER

_MARGIN = 0.01
"""How far a sample may be from the whole; a step of one bit changes the share retained by far more."""

_ROOM = 1.0005
"""What is added to a budget: headers differ by a few bytes, a step of one module is many times larger."""


def rebuild_command(
    adapter: str,
    recipe: Mapping[str, Any],
    extras: Sequence[tuple[str, float]],
    *,
    base_bits: int | None,
    verdict: str,
    retained: float | None,
    numbers: Mapping[str, int],
    size: int,
) -> str:
    """Return the `fusery fuse` that gives this recipe, and so this key.

    The number of bits of `mixed` is no option of that command: it follows from the least share to be retained, and
    bits per module follow from the budget.

    Args:
        adapter: its name.
        recipe: as `Recipe.to_dict` has it.
        extras: further adapters and their weights.
        base_bits: bits of the base's quantisation, None if it is dense.
        verdict: of the fuse.
        retained: share of the update.
        numbers: in the weight of each module of the base.
        size: bytes of the fused weights.
    """
    words = ["fusery", "fuse", adapter, *_precision(recipe, base_bits, retained)]
    if bits := {path: wide for path, wide in recipe.get("bits", {}).items() if path}:
        words += ["--budget", _budget(bits, base_bits or 0, numbers, size)]
    if recipe.get("scale") is not None:
        words += ["--scale", repr(float(recipe["scale"]))]
    for name, weight in extras:
        words += ["--with", f"{name}:{weight!r}"]
    if recipe.get("rounding") is not None:
        words += ["--rounding", str(recipe["rounding"])]
    if recipe.get("seed"):
        words += ["--seed", str(recipe["seed"])]
    if verdict == "LOST":
        words.append("--accept-loss")
    return shlex.join(words)


def _precision(recipe: Mapping[str, Any], base_bits: int | None, retained: float | None) -> list[str]:
    if (shape := recipe.get("quantization")) is not None:
        return [
            *("--quantize", str(shape["bits"])),
            *("--group-size", str(shape["group_size"])),
            *("--mode", str(shape["mode"])),
        ]
    words = ["--precision", str(recipe["precision"])]
    bits = recipe.get("bits", {}).get("")
    least = next((wider for wider in WIDER if wider > (base_bits or 0)), None)
    if bits not in (None, least) and retained is not None and retained > _MARGIN:
        words += ["--min-fidelity", f"{math.floor(min(retained - _MARGIN, 1.0) * 100) / 100}"]
    return words


def _budget(bits: Mapping[str, int], base_bits: int, numbers: Mapping[str, int], size: int) -> str:
    """Return the least budget under which the bits come out as they are: what does not fit is passed over the same."""
    added = sum(numbers.get(path, 0) * max(wide - base_bits, 0) // 8 for path, wide in bits.items())
    return f"{math.ceil((1 + _ROOM * added / max(size - added, 1)) * 1e6) / 1e6}x"
