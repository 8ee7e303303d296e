"""What probe, bench and eval run put on record: whose, on what, and once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.comparison.reports import (
    BenchReport,
    FormCost,
    Held,
    Machine,
    ProbedModel,
    ProbePrompts,
    ProbeReport,
)
from fusery.research.prompts import Prompt
from fusery.research.reports import benched, probed

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
ADAPTER, BASE = ProbedModel("adapter", ONE, "a"), ProbedModel("base", "t", "b")
FUSED = ProbedModel("fused", ONE, "f", "keep", "8 bits, dithered")


def report(a: ProbedModel, b: ProbedModel, **other: Any) -> ProbeReport:
    values: dict[str, Any] = {
        "prompts": 2, "tokens": 9, "kl": 0.01, "kl_p99": 0.1, "top1_agreement": 0.9, "loss_a": 1.23456789, "loss_b": 1.5,
        "loss_base": 2.0, "gain_kept": None, "seconds": 1.0, "rows": (), "about_prompts": ProbePrompts("file", "q.jsonl"),
    }  # fmt: skip
    return ProbeReport(a, b, **{**values, **other})


def told(found: ProbeReport, *owners: int | None, text: str = "x") -> dict[int, dict[str, float]]:
    made = probed(found, [Prompt(text)], (owners[0], owners[1]))
    return {number: {each.metric: each.value for each in values} for number, values in made}


def test_whose_a_value_is() -> None:
    alone = {"probe.loss": 1.23457, "probe.gain": 0.765432}
    assert told(report(ADAPTER, BASE), 1, None) == {1: alone}
    fused = {"probe.8_bits_dithered.loss": 1.5, "probe.8_bits_dithered.kl": 0.01}
    agreed = {"probe.8_bits_dithered.top1_agreement": 0.9}
    assert told(report(ADAPTER, FUSED), 1, 1) == {1: {**alone, **fused, **agreed}}
    other = replace(ADAPTER, name=TWO)
    assert told(report(ADAPTER, other), 1, 2) == {1: alone, 2: {"probe.loss": 1.5, "probe.gain": 0.5}}
    apart = probed(report(ADAPTER, other), [Prompt("x")], (1, 2), one_base=False)
    assert [[row.metric for row in rows] for _, rows in apart] == [
        ["probe.loss", "probe.gain"],
        ["probe.loss"],
    ]
    # How near two adapters are is said of neither, and a sum of adapters is none of them.
    assert told(report(ADAPTER, FUSED), 1, None) == {1: alone}
    assert told(report(FUSED, BASE, loss_base=None), None, None) == {}


def test_on_what_it_was_measured() -> None:
    def setting(about: ProbePrompts, text: str = "x") -> tuple[str, str]:
        [(_, values)] = probed(report(ADAPTER, BASE, about_prompts=about), [Prompt(text)], (1, None))
        assert {(each.harness, each.samples) for each in values} == {("fusery probe", 2)}
        return values[0].dataset, values[0].split

    first, second = setting(ProbePrompts("file", "q.jsonl")), setting(ProbePrompts("file", "q.jsonl"), "y")
    assert first != second  # other prompts under the same name are another measurement
    assert first[0].startswith("q.jsonl@") and first[1] == ""
    assert setting(ProbePrompts("held-out", "test.jsonl"))[1] == "test"
    assert setting(ProbePrompts("held-out", "valid.jsonl"))[1] == "validation"
    assert setting(ProbePrompts("file", "test.jsonl"))[1] == ""  # of somebody's own file nobody knows
    assert setting(ProbePrompts("built-in"))[0].startswith("built-in@")
    assert setting(ProbePrompts("file", "\x1b[2J\u202e" + "x" * 400))[0].startswith("_2J_xxx")


def test_what_a_bench_measured() -> None:
    def cost(kind: Any, label: str, **other: Any) -> FormCost:
        values: dict[str, Any] = {
            "precision": None, "fidelity": Held(verdict="PASS", retained=1.0), "adapters": 1, "bytes": 10, "error": None,
            "load_seconds": 1.0, "first_token_seconds": 0.5, "tokens_per_second": 123.4567891, "peak_bytes": 2.0**30,
        }  # fmt: skip
        return FormCost(kind=kind, label=label, **{**values, **other})

    rows = (
        cost("base", "base"),
        cost("adapter", "base + adapter"),
        cost("resident", "base + 8 adapters"),
        cost("fused", "fused, keep", first_token_seconds=None),
        cost("fused", "fused, mixed", error="it broke"),
    )
    machine = Machine(system="Linux", processor="Ünix\x1b", cores=2, mlx="0.32", mlx_lm="0.32")
    found = BenchReport(
        adapter=ONE, base="tiny", machine=machine, prompt_tokens=8, tokens=4, runs=3, rows=rows, choice=None, reasons=(),
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    values = {each.metric: each for each in benched(found)}
    assert {name.split(".")[1] for name in values} == {"adapter", "keep"}
    assert len(values) == 7
    one = values["bench.adapter.tokens_per_second"]
    assert (one.value, one.higher_is_better, one.samples, one.split) == (123.457, True, 3, "8+4 tokens")
    assert one.dataset == "Linux _nix_, 2 cores"
    assert values["bench.keep.load_seconds"].higher_is_better is False


def test_a_probe_is_on_record_where_that_is_wanted(stocked: Registry, tmp_path: Path) -> None:
    prompts = tmp_path / "q.jsonl"
    prompts.write_text(json.dumps({"text": "The ferry leaves at seven."}) + "\n", encoding="utf-8")
    stocked.evaluations.probe(ONE, against="base", prompts=prompts, record=False)
    assert stocked.evaluations.list() == []
    found = stocked.evaluations.probe(ONE, against="base", prompts=prompts)
    done = stocked.evaluations.run(ONE, prompts=prompts)
    assert (done.form, done.recorded, done.unchanged) == ("probe", (), ("probe.loss", "probe.gain"))
    assert found.loss_base is not None
    values = {each.metric: each.value for each in stocked.evaluations.list(ONE)}
    assert values["probe.loss"] == pytest.approx(found.loss_a, rel=1e-5)
    assert values["probe.gain"] == pytest.approx(found.loss_base - found.loss_a, rel=1e-4, abs=1e-6)
    assert stocked.upkeep.audit().ok
