"""`fusery probe`: words in, numbers and a sentence out."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("The ferry leaves at seven.\nA second line.\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_two_models_are_compared(stocked: Fusery, prompts: Path) -> None:
    words = ("probe", "course_rec@1", "--prompts", prompts, "--limit", "1")
    ran = stocked(*words, "--with", "course_rec@2:0.5")
    assert (ran.code, ran.out.startswith("The fused model answers as base + adapter: KL ")) == (0, True)
    ran = stocked(*words, "--against", "base", "--json")
    assert (ran.code, ran.err, ran.json["prompts"], len(ran.json["rows"])) == (0, "", 1, 1)
    assert (ran.json["a"]["name"], ran.json["b"]["kind"]) == ("course_rec_v1_20260115", "base")
    assert stocked(*words, "--against", "course_rec@2", "-q").out.split()[1] == "course_rec_v2_20260201"


def test_refusals(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        ("probe tiny", "--against"),
        ("probe course_rec@1 --against base --precision keep", "--precision"),
        ("probe course_rec@1 --prompts absent.jsonl", "absent.jsonl"),
        ("probe course_rec@1 --against nothing@1", "unknown_reference"),
        ("probe course_rec@1 --limit 0", "--limit"),
        ("fuse course_rec@1 --precision keep --probe auto", "leave out --precision"),
        ("fuse --all --probe auto", "fusery fuse REF --probe auto"),
        ("fuse course_rec@1 --probe auto --probe-within 0", "--probe-within"),
    )
    ran = stocked("fuse", "course_rec@1", "--probe", "auto")
    assert (ran.code, "tiny is not quantised" in ran.err, ran.out[:6]) == (0, True, "fused "), ran.err
