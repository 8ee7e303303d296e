"""What to ship, from what was measured: plain rules, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.verdict import in_words
from .subjects import FormCost, Held

NOTICEABLE = 0.05
"""A difference of speed or memory that anybody would notice; below it, other things decide."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to ship.

    Attributes:
        choice: label of a row; None if nothing could be measured.
        reasons: sentences.
    """

    choice: str | None
    reasons: tuple[str, ...]


def advise(rows: Sequence[FormCost], *, adapters: int) -> Advice:
    """Return which row to ship, and why.

    A fused model that does not hold what the adapter learned is out, however fast it is.  Of the others the fastest is
    taken; those within `NOTICEABLE` of it count as equally fast, and of them the one that takes least memory.  The adapter
    on its base is one of them: it is exact, and several adapters share the base.

    Args:
        rows: what was measured of each form.
        adapters: how many adapters of this base are to be served on this machine.
    """
    able = [row for row in rows if row.kind in ("adapter", "fused") and row.error is None]
    lossy = [row for row in able if row.kind == "fused" and _held(row).verdict != "PASS"]
    kept = [row for row in able if row not in lossy]
    reasons = [_loses(row) for row in lossy]
    if not kept:
        nothing = "Nothing that holds what the adapter learned could be measured."
        return Advice(None, (*reasons, nothing))
    fastest = max(_speed(row) for row in kept)
    fast = [row for row in kept if _speed(row) >= (1 - NOTICEABLE) * fastest]
    chosen = min(fast, key=lambda row: _memory(row, rows, adapters))
    return Advice(chosen.label, (*reasons, *_why(chosen, kept, rows, adapters)))


def _speed(row: FormCost) -> float:
    assert row.tokens_per_second is not None  # it was measured
    return row.tokens_per_second


def _peak(row: FormCost) -> float:
    assert row.peak_bytes is not None  # it was measured
    return row.peak_bytes


def _held(row: FormCost) -> Held:
    assert row.fidelity is not None  # it is a fused model
    return row.fidelity


def _why(chosen: FormCost, kept: Sequence[FormCost], rows: Sequence[FormCost], adapters: int) -> list[str]:
    reasons = []
    for row in kept:
        if row is chosen:
            continue
        slower = 1 - _speed(row) / _speed(chosen)
        memory = _memory(row, rows, adapters) / _memory(chosen, rows, adapters) - 1
        if slower > NOTICEABLE:
            reasons.append(f"{row.label} writes {slower:.0%} fewer tokens a second.")
        elif memory > NOTICEABLE:
            for_all = f" for {adapters} adapters" if adapters > 1 else ""
            reasons.append(f"{row.label} is as fast, and takes {memory:.0%} more memory{for_all}.")
        else:
            reasons.append(f"{row.label} is as fast and as large; either will do.")
    if chosen.kind == "adapter":
        reasons.append("The adapter on its base is exact, and every further adapter costs its own size only.")
    else:
        retained = _held(chosen).retained
        share = f"{retained:.1%}" if isinstance(retained, float) else "all"
        reasons.append(f"{chosen.label} holds {share} of the adapter's update and needs nothing but mlx-lm.")
    return reasons


def _loses(row: FormCost) -> str:
    held = _held(row)
    return f"{row.label} is out: {in_words(held.verdict, held.retained, None)}."


def _memory(row: FormCost, rows: Sequence[FormCost], adapters: int) -> float:
    """Return the memory that serving all adapters takes: one base with them, or one fused model for each."""
    if row.kind == "fused":
        return _peak(row) * adapters
    base = next((other.peak_bytes for other in rows if other.kind == "base" and other.peak_bytes), None)
    if base is None:
        return _peak(row)
    return base + adapters * max(0, _peak(row) - base)
