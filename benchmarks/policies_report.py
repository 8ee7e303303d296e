"""The tables of policies.py: from its rows to Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from fusery.registry.engine.verdict import recorded_verdict

Row = dict[str, Any]

HEAD = (
    "output",
    "size",
    "verdict",
    "retained",
    "noise",
    "loss",
    "beyond base + adapter",
    "exact",
    "KL, task",
    "KL, general",
    "same top-1, general",
)


MARKS = "<!-- made by benchmarks/policies.py --report --page -->", "<!-- end -->"
"""Around the tables of a page."""


def _verdict(row: Row) -> str:
    """Return the verdict of a row's figures by the rule of today; its cosine was not kept."""
    shaped = row["calibrated"] and str(row["wrote"]).startswith("mixed")
    return recorded_verdict(row["verdict"], row["retained"], row["noise"], shaped=shaped)


def filled(page: str, rows: Sequence[Row]) -> str:
    """Return a page with the tables of the rows between its marks."""
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise SystemExit(f"the page has no place for tables, which is {' … '.join(MARKS)}")
    return f"{before}{mark}\n\n{tables(rows)}\n\n{end}{after}"


def tables(rows: Sequence[Row]) -> str:
    """Return one table for each pair of base and adapter."""
    parts = []
    for name in dict.fromkeys(row["adapter"] for row in rows):
        of_pair = [row for row in rows if row["adapter"] == name]
        first = of_pair[0]
        about = f"{first['questions']} questions, {first['tokens']} tokens of general text"
        parts.append(f"**{name}** on {first['base']}; {about}.\n\n{table(of_pair)}")
    return "\n\n".join(parts)


def table(rows: Iterable[Row]) -> str:
    """Return the rows of a pair as a table; those that differ only in the seed are one line."""
    lines = [HEAD, ["---"] * len(HEAD)]
    ordered = sorted(rows, key=_order)
    for _, some in groupby(ordered, key=lambda row: (row["output"], row["calibrated"])):
        lines.append(_line(list(some)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_OUTPUTS = ("base", "base + adapter", "mlx_lm.fuse", "keep", "dither", "mixed", "dequantize", "auto")


def _order(row: Row) -> tuple[int, bool, str, int]:
    kind = row["output"].split(",")[0]
    return _OUTPUTS.index(kind), row["calibrated"], row["output"], row["seed"] or 0


def _line(some: list[Row]) -> list[str]:
    first = some[0]
    name = first["output"] + (", calibrated" if first["calibrated"] else "")
    if len(some) > 1:
        name += f" ({len(some)} seeds)"
    if first["output"] == "auto":
        name += f" → {first['wrote']}"
    excess = [row["excess"] for row in some]
    beyond = f"{round(_mean(excess), 3) + 0.0:+.3f}"  # no -0.000
    if len(some) > 1:
        beyond += f" ({min(excess):+.3f} to {max(excess):+.3f})"
    return [
        name,
        _shown(some, "size", "{:.2f}"),
        "/".join(dict.fromkeys(_verdict(row) for row in some if row["verdict"])),
        _shown(some, "retained", "{:.3f}"),
        _shown(some, "noise", "{:.3f}"),
        _shown(some, "loss", "{:.3f}"),
        beyond,
        _shown(some, "exact", "{:.2f}"),
        _shown(some, "kl_task", "{:.4f}"),
        _shown(some, "kl_general", "{:.4f}"),
        _shown(some, "top1_general", "{:.3f}"),
    ]


def _shown(some: Sequence[Row], key: str, form: str) -> str:
    values = [row[key] for row in some if row.get(key) is not None]
    return form.format(_mean(values)) if values else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
