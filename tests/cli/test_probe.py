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
def test_base_and_adapter_against_the_fused_model(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("probe", "course_rec@1", "--prompts", prompts)
    assert ran.code == 0
    assert ran.out.startswith("The fused model answers as base + adapter: KL ")
    for label in ("course_rec_v1_20260115 fused (keep)", "2, ", "The ferry leaves at seven."):
        assert label in ran.out, label
    ran = stocked("probe", "course_rec@1", "--with", "course_rec@2:0.5", "--prompts", prompts, "--limit", "1")
    assert ran.code == 0, ran.err
    # Names are cut at 80 columns, the same on both sides.
    first, second = (line.split(maxsplit=1)[1] for line in ran.out.splitlines() if line[:2] in ("a ", "b "))
    assert first.startswith("base + course_rec_v1_20260115 + 0.5 x")
    assert second.startswith("course_rec_v1_20260115 + 0.5 x")


@pytest.mark.slow
def test_against_the_base(stocked: Fusery, prompts: Path) -> None:
    words = ("probe", "course_rec@1", "--against", "base")
    ran = stocked(*words, "--prompts", prompts, "--limit", "1", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["prompts"] == len(ran.json["rows"]) == 1
    assert ran.json["a"]["name"] == "course_rec_v1_20260115"
    assert ran.json["b"] == {**ran.json["b"], "kind": "base", "name": "tiny"}
    assert ran.json["conclusion"].startswith("The adapter changed ")
    ran = stocked(*words, "--prompts", prompts, "--limit", "1")
    assert (ran.code, "Hint: give prompts of its task" in ran.err) == (0, True)
    ran = stocked(
        "probe", "course_rec@1", "--against", "course_rec@2", "--prompts", prompts, "--limit", "1", "-q"
    )
    assert (ran.out, ran.err) == ("course_rec_v1_20260115\ncourse_rec_v2_20260201\n", "")


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
