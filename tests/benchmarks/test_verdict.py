"""The verdict study: what it measures on a tiny model, and what it counts as a mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import thresholds
import tiny_models
import verdict

BASE = "tiny-4bit"


def row(kept: float, *, gain: float = 2.0, **figures: Any) -> thresholds.Row:
    return {"gain": gain, "kept": kept, "excess": gain * (1 - kept), **figures}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tiny_models.make_base(tmp_path / "bases" / BASE, bits=4, group_size=32)
    adapter = tiny_models.make_adapter(tmp_path / "adapters" / "random", base, update=0.1)
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "data": "data/facts"}), encoding="utf-8")
    listed = [verdict.Case("random", BASE, way) for way in ("keep", "dequantize", "dither")]
    monkeypatch.setattr(verdict, "cases", lambda: [*listed, verdict.Case("absent", BASE, "keep")])
    return tmp_path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, thresholds.Row]:
    rows = folder / "rows.jsonl"
    options = ["--bases", folder / "bases", "--adapters", folder / "adapters", "--rows", rows, "--samples", 3]
    monkeypatch.setattr(sys, "argv", ["verdict.py", *map(str, options)])
    verdict.main()
    return {found["case"][2]: found for found in thresholds.read_rows(rows)}


def test_measures_weights_and_behaviour_and_measures_no_case_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(folder, monkeypatch)
    assert sorted(rows) == ["dequantize", "dither", "keep"]
    assert rows["dequantize"]["retained"] == pytest.approx(1, abs=0.01)
    assert rows["dequantize"]["kl_task"] < 0.1 * rows["keep"]["kl_task"]
    assert abs(rows["dequantize"]["excess"]) < 0.05
    assert rows["keep"]["update"] == pytest.approx(0.1, rel=0.2)
    assert rows["keep"]["kl_base_general"] > 0
    assert "1 cases left out" in capsys.readouterr().out
    before = (folder / "rows.jsonl").read_bytes()
    run(folder, monkeypatch)
    assert (folder / "rows.jsonl").read_bytes() == before


def test_what_the_weights_do_not_decide_is_no_mistake() -> None:
    figures = {"cosine": 0.5, "top1_task": 0.95, "kl_general": 0.01, "case": ["a", "b", "dither"]}
    rows = [
        row(1.0, retained=1.0, noise=0.01, **figures),
        row(0.8, retained=1.0, noise=0.01, **figures),  # PASS, but it has lost a fifth
        row(0.8, retained=0.5, noise=0.01, **figures),
        row(1.0, retained=1.0, noise=0.05, **figures | {"top1_task": 0.8}),
        row(0.2, retained=0.1, noise=0.01, **figures),
    ]
    weights, loss = thresholds.by_weights, thresholds.by_loss
    assert [weights(each) for each in rows] == ["PASS", "PASS", "UNSURE", "UNSURE", "LOST"]
    answers = [thresholds.by_answers(each) for each in rows]
    assert answers == ["PASS", "DEGRADED", "DEGRADED", "DEGRADED", "LOST"]
    table = thresholds.confusion(rows, weights, loss)
    assert table["DEGRADED"] == {"LOST": 0, "UNSURE": 1, "PASS": 1}
    assert sum(sum(line.values()) for line in table.values()) == 5
    assert thresholds.mistakes(rows, weights, loss) == 1
