"""What to ship, from what was measured: plain rules, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

NOTICEABLE = 0.05
"""A difference of speed or memory that anybody would notice; below it, other things decide."""


def advise(rows: Sequence[Document], *, adapters: int) -> dict[str, Any]:
    """Return which row to ship, and why.

    A fused model that does not hold what the adapter learned is out, however fast it is.  Of the others the fastest is
    taken; those within `NOTICEABLE` of it count as equally fast, and of them the one that takes least memory.  The adapter
    on its base is one of them: it is exact, and several adapters share the base.

    Args:
        rows: as `Row.to_dict` has them.
        adapters: how many adapters of this base are to be served on this machine.

    Returns:
        `choice` (a label, None if nothing could be measured) and `reasons`, sentences.
    """
    able = [row for row in rows if row["kind"] in ("adapter", "fused") and row["error"] is None]
    lossy = [row for row in able if row["kind"] == "fused" and row["fidelity"]["verdict"] != "PASS"]
    kept = [row for row in able if row not in lossy]
    reasons = [_loses(row) for row in lossy]
    if not kept:
        return {
            "choice": None,
            "reasons": [*reasons, "Nothing that holds what the adapter learned could be measured."],
        }
    fastest = max(row["tokens_per_second"] for row in kept)
    fast = [row for row in kept if row["tokens_per_second"] >= (1 - NOTICEABLE) * fastest]
    chosen = min(fast, key=lambda row: _memory(row, rows, adapters))
    return {"choice": chosen["label"], "reasons": [*reasons, *_why(chosen, kept, rows, adapters)]}


def _why(chosen: Document, kept: Sequence[Document], rows: Sequence[Document], adapters: int) -> list[str]:
    reasons = []
    for row in kept:
        if row is chosen:
            continue
        slower = 1 - row["tokens_per_second"] / chosen["tokens_per_second"]
        memory = _memory(row, rows, adapters) / _memory(chosen, rows, adapters) - 1
        if slower > NOTICEABLE:
            reasons.append(f"{row['label']} writes {slower:.0%} fewer tokens a second.")
        elif memory > NOTICEABLE:
            for_all = f" for {adapters} adapters" if adapters > 1 else ""
            reasons.append(f"{row['label']} is as fast, and takes {memory:.0%} more memory{for_all}.")
        else:
            reasons.append(f"{row['label']} is as fast and as large; either will do.")
    if chosen["kind"] == "adapter":
        reasons.append("The adapter on its base is exact, and every further adapter costs its own size only.")
    else:
        retained = chosen["fidelity"].get("retained")
        share = f"{retained:.1%}" if isinstance(retained, float) else "all"
        reasons.append(
            f"{chosen['label']} holds {share} of the adapter's update and needs nothing but mlx-lm."
        )
    return reasons


def _loses(row: Document) -> str:
    retained = row["fidelity"].get("retained")
    share = f"{retained:.1%}" if isinstance(retained, float) else "too little"
    return f"{row['label']} is out: it holds {share} of the adapter's update ({row['fidelity']['verdict']})."


def _memory(row: Document, rows: Sequence[Document], adapters: int) -> float:
    """Return the memory that serving all adapters takes: one base with them, or one fused model for each."""
    if row["kind"] == "fused":
        return float(row["peak_bytes"]) * adapters
    base = next(
        (other["peak_bytes"] for other in rows if other["kind"] == "base" and other["peak_bytes"]), None
    )
    if base is None:
        return float(row["peak_bytes"])
    return float(base + adapters * max(0, row["peak_bytes"] - base))
