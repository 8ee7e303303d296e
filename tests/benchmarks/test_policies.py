"""The table of ways to write a fused model: measured on a tiny one, and shown in the docs as it was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import policies
import policies_report
import pytest
import tiny_models
from policies_report import MARKS

ROOT = Path(__file__).resolve().parents[2]
BASE = "tiny-4bit"


def test_the_page_shows_what_was_measured() -> None:
    """docs/precision.md has the tables of results/policies.json, and no others."""
    rows = json.loads(policies.RESULTS.read_text(encoding="utf-8"))["rows"]
    page = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    assert MARKS[0] in page
    assert policies_report.filled(page, rows) == page


@pytest.mark.slow
def test_measures_each_way_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every way has its row, fused through the registry; a second run adds none."""
    base = tiny_models.make_base(tmp_path / "bases" / BASE, bits=4, group_size=32, layers=3)
    adapter = tiny_models.make_adapter(tmp_path / "adapters" / "random", base, update=0.1)
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "data": "data/facts", "model": BASE}), encoding="utf-8")
    monkeypatch.setattr(policies, "PAIRS", {"random": BASE})
    monkeypatch.setattr(policies, "TEXTS", ())  # licences are where they are on Debian only
    monkeypatch.setattr(policies, "MODULES", ("heapq",))
    monkeypatch.setattr(policies, "TOKENS", 64)  # a letter each
    monkeypatch.setattr(policies, "QUESTIONS", 3)
    monkeypatch.setattr(policies, "KEYS", 1)
    results = tmp_path / "policies.json"
    options = ["--bases", base.parent, "--adapters", adapter.parent, "--results", results]
    monkeypatch.setattr(sys, "argv", ["policies.py", *map(str, options)])
    policies.main()
    measured = results.read_bytes()
    rows = {
        (found["output"], found["calibrated"], found["seed"]): found for found in json.loads(measured)["rows"]
    }
    wanted = {(way.name, way.calibrated, way.seed) for way in policies.ways(1)}
    assert rows.keys() == wanted | {("base", False, None), ("base + adapter", False, None)}
    assert rows["dither", True, 0]["kl_task"] != rows["dither", False, 0]["kl_task"]
    assert rows["mlx_lm.fuse", False, None]["loss"] == rows["keep", False, None]["loss"]
    assert rows["dequantize", False, None]["kl_task"] < 0.1 * rows["keep", False, None]["kl_task"]
    assert "mixed, budget 1.2x" in capsys.readouterr().out
    policies.main()
    assert results.read_bytes() == measured
