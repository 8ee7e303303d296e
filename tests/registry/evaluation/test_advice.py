from __future__ import annotations

from dataclasses import replace
from typing import Any

from fusery.registry.evaluation.advice import advise
from fusery.registry.evaluation.subjects import FormCost, Held, Kind


def row(kind: Kind, label: str, speed: float, peak: int, verdict: str = "PASS", **more: Any) -> FormCost:
    fidelity = Held(verdict=verdict, retained=0.99 if verdict == "PASS" else 0.2) if kind == "fused" else None
    spent = {"load_seconds": 1.0, "first_token_seconds": 1.0, "tokens_per_second": speed, "peak_bytes": peak}
    found = FormCost(
        kind=kind, label=label, precision=None, fidelity=fidelity, adapters=0, bytes=0, error=None, **spent
    )
    return replace(found, **more)


BASE = row("base", "base", 100, 1000)


def test_what_loses_the_adapter_is_out_however_fast() -> None:
    lost = row("fused", "keep", 100, 1000, "LOST")
    found = advise([BASE, row("adapter", "on", 60, 1010), lost, row("fused", "16", 80, 3000)], adapters=1)
    assert found.choice == "16"
    assert any("keep is out: LOST, 20.0 %" in reason for reason in found.reasons)
    assert any("25%" in reason for reason in found.reasons)


def test_of_the_equally_fast_the_smaller_one() -> None:
    rows = [BASE, row("adapter", "on", 98, 1010), row("fused", "keep", 100, 1200)]
    assert advise(rows, adapters=1).choice == "on"
    rows = [BASE, row("adapter", "on", 99, 1050), row("fused", "keep", 100, 1000)]
    assert advise(rows, adapters=1).choice == "keep"
    found = advise(rows, adapters=5)
    assert found.choice == "on", "several adapters share the base"
    assert any("300%" in reason for reason in found.reasons)


def test_what_could_not_be_measured_is_no_choice() -> None:
    broken = {"error": "no", "tokens_per_second": None, "peak_bytes": None}
    rows = [BASE, row("adapter", "on", 0, 0, **broken), row("fused", "keep", 0, 0, **broken)]
    assert advise(rows, adapters=1).choice is None
    rows[1] = row("adapter", "on", 10, 100)
    assert advise(rows, adapters=1).choice == "on"
