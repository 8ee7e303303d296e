"""The table of ways to write a fused model: measured on a tiny one, and shown in the docs as it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import policies
import policies_report
from policies_report import MARKS

ROOT = Path(__file__).resolve().parents[2]
BASE = "tiny-4bit"


def test_the_page_shows_what_was_measured() -> None:
    rows = json.loads(policies.RESULTS.read_text(encoding="utf-8"))["rows"]
    page = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    assert MARKS[0] in page
    assert policies_report.filled(page, rows) == page
