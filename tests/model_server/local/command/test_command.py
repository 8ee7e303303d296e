"""`fusery serve`: what it prints when it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Fusery

from fusery.model_server import run as running

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"
URL = "http://127.0.0.1:1"


def test_models_and_routes(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path, options: Any, *, loaded: Any, ready: Any, say: Any) -> int:
        loaded()
        ready(URL)
        return 0

    monkeypatch.setattr(running, "serve", run)
    words = ("serve", "course_rec@1", "--model", "ab=course_rec@1:1,course_rec@2:3")
    ran = stocked(*words)
    routes = [f"  course_rec@1  ->  {V1}", f"  course_rec  ->  {V1}", f"  ab  ->  {V1}: 1, {V2}: 3"]
    assert ran.out.splitlines() == [f"Serving on {URL}/v1", "  tiny", f"  {V1}", f"  {V2}", *routes]
    assert (ran.code, stocked(*words, "-q").out) == (0, f"{URL}/v1\n")
    assert stocked(*words, "--json").json["routes"]["ab"] == {V1: 1.0, V2: 3.0}
