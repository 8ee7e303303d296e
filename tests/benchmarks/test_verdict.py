"""The verdict study: what it measures on a tiny model, and how it comes from rows to thresholds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import thresholds
import tiny_models
import verdict

BASE = "tiny-4bit"


def row(kept: float, *, gain: float = 2.0, **figures: float) -> thresholds.Row:
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


def test_thresholds_that_separate_the_rows_make_no_mistake() -> None:
    rows = [
        row(kept, retained=retained)
        for kept, retained in ((1.0, 0.9), (0.97, 0.8), (0.8, 0.5), (0.6, 0.4), (0.2, 0.1))
    ]
    figure = thresholds.FIGURES["retained"]
    fitted = thresholds.fit(rows, figure, thresholds.by_loss)
    assert fitted == pytest.approx((0.65, 0.25))
    table = thresholds.confusion(rows, thresholds.by_figure(figure, fitted), thresholds.by_loss)
    assert [table[verdict][verdict] for verdict in thresholds.VERDICTS] == [1, 2, 2]
    assert sum(sum(line.values()) for line in table.values()) == 5
    assert thresholds.mistakes(rows, thresholds.by_figure(figure, (0.85, 0.25)), thresholds.by_loss) == 1
