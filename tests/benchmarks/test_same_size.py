"""The study at the base's own size: what is written of a pair, and how rows become a table; its data are made as they lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_dates
import pytest
import same_size


def row(output: str, loss: float, **figures: float) -> dict[str, Any]:
    """A row as the study writes it."""
    known = {"exact": 0.5, "kl_task": 0.01, "kl_general": 0.02, "top1_general": 0.9}
    return {"base": "four", "adapter": "facts", "output": output, "loss": loss, **known, **figures}


def test_a_line_for_each_way_with_the_spread_of_its_seeds() -> None:
    rows = [row("base", 3.0), row("base + adapter", 1.0), row("keep-0", 2.0, kl_general=0.4)]
    rows += [row("dither-0", 1.01), row("dither-1", 1.03), row("learned-0", 0.999)]
    head, _, keep, dither, learned = same_size.tables(rows).splitlines()
    assert head.startswith("| base, adapter")
    assert keep.startswith(
        "| four, facts: 3.000 to 1.000, 0.50 exact | `keep`, `mlx_lm.fuse` | +1.000 | 0.50 |"
    )
    assert "| `dither` | +0.020 ± 0.014 | 0.50 ± 0.00 |" in dither
    assert "| `dither`, learned | -0.001 |" in learned


def test_the_dates_are_those_that_lie_there_and_none_is_in_both_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {name: (make_dates.DATA / name).read_bytes() for name in ("train.jsonl", "valid.jsonl")}
    monkeypatch.setattr(make_dates, "DATA", tmp_path)
    make_dates.main()
    assert {name: (tmp_path / name).read_bytes() for name in there} == there
    answers = [{line.partition(b"Filed under ")[2] for line in part.splitlines()} for part in there.values()]
    assert len(answers[1]) == make_dates.VALID and not answers[0] & answers[1]
