"""`bench` on a tiny quantised model: real processes, real numbers; and what it advises."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry, Reporter
from fusery.registry.comparison.reports import FormCost, Held, Kind
from fusery.registry.errors import BadInputError, ModelUnusableError
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace
from fusery.research import bench, bench_worker
from fusery.research.bench import BenchForm, advise
from fusery.research.reports import COSTS


@pytest.fixture
def quantized(tmp_path: Path) -> Iterator[Registry]:
    base = tiny_models.make_base(tmp_path / "tiny", layers=2, bits=4)
    settings = Settings.load(tmp_path / "home")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
        registry.adapters.register(adapter, base="tiny", task="course_rec")
        yield registry


@pytest.mark.slow
def test_every_form_is_measured_drawn_and_kept(
    quantized: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Run in a folder whose modules must not replace the installed ones.
    (tmp_path / "theirs").mkdir()
    for name in ("fusery", "mlx_lm", "json"):
        (tmp_path / "theirs" / f"{name}.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path / "theirs")
    assert quantized.evaluations.last_bench("course_rec@1") is None
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")  # each process would wait for a C++ compiler
    little = {"resident": 3, "tokens": 4, "prompt_tokens": 8, "runs": 1}
    found = quantized.evaluations.bench("course_rec@1", precisions=["dequantize"], **little).to_dict()
    labels = [row["label"] for row in found["rows"]]
    assert labels == ["base", "base + adapter", "base + 3 adapters", "fused, dequantize"]
    for row in found["rows"]:
        assert row["error"] is None
        assert row["tokens_per_second"] > 0 and row["first_token_seconds"] > 0 and row["load_seconds"] > 0
        assert row["peak_bytes"] > 20 << 20
    sizes = {row["label"]: row["bytes"] for row in found["rows"]}
    assert sizes["base"] < sizes["base + adapter"] < sizes["base + 3 adapters"]
    assert sizes["fused, dequantize"] > 2 * sizes["base"]
    assert found["choice"] in labels[1:] and found["reasons"]
    again = quantized.evaluations.last_bench("course_rec@1")
    assert again is not None and again.to_dict() == found
    assert quantized.upkeep.audit().ok


def test_numbers_that_measure_nothing(quantized: Registry) -> None:
    for wrong in ({"tokens": 1}, {"runs": 0}, {"prompt_tokens": 0}, {"resident": -1}):
        with pytest.raises(BadInputError):
            quantized.evaluations.bench("course_rec@1", **wrong)


def test_forms_take_turns_and_medians_are_recorded(
    quantized: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, progress, said = list[str](), list[tuple[int, int]](), list[str]()

    def run(form: BenchForm, prompt_tokens: int, tokens: int) -> dict[str, float] | str:
        order.append(form.label)
        if form.kind == "resident":
            return "no memory"
        return dict.fromkeys(COSTS, float(len(order))) | {"tokens_per_second": float(prompt_tokens + tokens)}

    monkeypatch.setattr(bench, "_run", run)
    quantized.aliases.set("prod", "course_rec@1")
    sizes = {"resident": 2, "tokens": 4, "prompt_tokens": 8, "runs": 3}
    heard = Reporter(said.append, lambda *done: progress.append(done))
    found = quantized.evaluations.bench("course_rec@1", precisions=["dequantize"], reporter=heard, **sizes)
    labels = ["base", "base + adapter", "base + 2 adapters", "fused, dequantize"]
    assert [row.label for row in found.rows] == labels
    assert order == [*labels, labels[3], *labels[1::-1], *labels[:2], labels[3]]
    assert progress[-12:] == [(number, 12) for number in range(12)]
    rows = {row.label: row for row in found.rows}
    assert [row.error for row in found.rows] == [None, None, "no memory", None]
    assert rows["base"].load_seconds == 7.0 and rows["base + 2 adapters"].load_seconds is None
    assert [row.adapters for row in found.rows] == [0, 1, 2, 0]
    held = rows["base + adapter"].bytes - rows["base"].bytes
    assert rows["base + 2 adapters"].bytes - rows["base"].bytes == 2 * held > 0
    assert quantized.evaluations.last_bench("course_rec@1") == found
    assert {
        value.value for value in quantized.evaluations.list(metric="bench.adapter.tokens_per_second")
    } == {12.0}
    monkeypatch.setattr(bench, "_run", lambda *_: "broken")
    with pytest.raises(ModelUnusableError, match="broken"):
        quantized.evaluations.bench("course_rec@1", precisions=["keep"], record=False, **sizes)


@pytest.mark.slow
def test_a_base_that_cannot_be_run_is_said_so(quantized: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(ModelUnusableError):
        quantized.evaluations.bench("course_rec@1", precisions=["keep"], resident=0, tokens=2, runs=1)


def row(kind: Kind, label: str, speed: float, peak: int, verdict: str = "PASS", **more: Any) -> FormCost:
    fidelity = Held(verdict=verdict, retained=0.99 if verdict == "PASS" else 0.2) if kind == "fused" else None
    spent = {"load_seconds": 1.0, "first_token_seconds": 1.0, "tokens_per_second": speed, "peak_bytes": peak}
    found = FormCost(
        kind=kind, label=label, precision=None, fidelity=fidelity, adapters=0, bytes=0, error=None, **spent
    )
    return replace(found, **more)


BASE = row("base", "base", 100, 1000)


def test_advice() -> None:
    on, keep = row("adapter", "on", 98, 1010), row("fused", "keep", 100, 1200)
    near, equal = row("adapter", "on", 99, 1050), row("fused", "keep", 100, 1000)
    lost = row("fused", "keep", 100, 1000, "LOST")
    broken = {"error": "no", "tokens_per_second": None, "peak_bytes": None}
    unknown = [row("adapter", "on", 0, 0, **broken), row("fused", "keep", 0, 0, **broken)]
    for rows, adapters, choice, reasons in (
        # A format that loses the adapter is out, however fast it is.
        (
            [row("adapter", "on", 60, 1010), lost, row("fused", "16", 80, 3000)],
            1,
            "16",
            ("keep is out: LOST, 20.0 %", "25%"),
        ),
        # Of the equally fast the smaller one; several adapters share the base.
        ([on, keep], 1, "on", ()),
        ([near, equal], 1, "keep", ()),
        ([near, equal], 5, "on", ("300%",)),
        (unknown, 1, None, ()),
        ([row("adapter", "on", 10, 100), unknown[1]], 1, "on", ()),
    ):
        found = advise([BASE, *rows], adapters=adapters)
        assert found[0] == choice
        assert all(any(part in reason for reason in found[1]) for part in reasons)


def test_a_worker_measures_in_its_own_process(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_base)
    asked = {"model": str(tiny_base), "adapters": [str(adapter)], "prompt_tokens": 5, "tokens": 3}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(bench_worker, "time", SimpleNamespace(perf_counter=itertools.count().__next__))

    def reply(**other: Any) -> dict[str, Any]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**asked, **other})))
        assert bench_worker.main() == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    found = reply()
    assert (found["load_seconds"], found["first_token_seconds"], found["tokens_per_second"]) == (1, 1, 1.0)
    assert found["peak_bytes"] > 20 << 20 and 0 < found["adapter_bytes"] < 1 << 20
    assert reply(adapters=[])["adapter_bytes"] == 0
    assert list(reply(model=str(tmp_path))) == ["error"]
    texts = SimpleNamespace(encode=lambda _: [1, 2]), SimpleNamespace(encode=lambda _: [])
    assert [bench_worker.prompt_of(tokenizer, 3) for tokenizer in texts] == [[1, 2, 1], [0, 0, 0]]
