"""`fusery base calibrate`: a base in, a calibration out."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals


@pytest.mark.slow
def test_a_base_is_calibrated_once(stocked: Fusery, tmp_path: Path) -> None:
    require_refusals(
        stocked,
        ("calibrate nothing", "unknown_reference"),
        ("calibrate tiny --prompts absent.jsonl", "absent.jsonl"),
    )
    (tmp_path / "prompts.txt").write_text("The ferry leaves at seven.\nA second line.\n", encoding="utf-8")
    words = ("calibrate", "tiny", "--prompts", "prompts.txt")
    ran = stocked(*words)
    assert ran.code == 0
    for text in ("prompts.txt, 42 tokens", "32 of each input", "KiB", "mlx-lm"):
        assert text in ran.out, text
    again = stocked(*words)
    assert (again.code, again.out) == (0, ran.out.replace("Calibrated", "Already there"))
    assert " on prompts.txt, 42 tokens\n" in stocked("base", "show", "tiny").out
    document = stocked(*words, "--json")
    assert document.json.keys() == {
        "base", "digest", "prompts", "tokens", "rank", "bytes", "engine", "created", "seconds", "adapter",
        "before", "after",
    }  # fmt: skip
    assert (document.code, document.err, document.json["created"]) == (0, "", False)
    shown = stocked("base", "show", "tiny", "--json").json
    assert [row["digest"] for row in shown["calibrations"]] == [document.json["digest"]]
    assert stocked(*words, "-q").out == f"{document.json['digest']}\n"
