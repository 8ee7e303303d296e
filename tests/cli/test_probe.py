"""`fusery probe`: words in, numbers and a sentence out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

Fusery = Any


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("The ferry leaves at seven.\nA second line.\nAnd a third.\n", encoding="utf-8")
    return path


def test_for_people(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("probe", "course_rec@1", "--prompts", prompts)
    assert ran.code == 0
    assert ran.out.startswith("The fused model answers as base + adapter: KL ")
    for label in ("course_rec_v1_20260115 fused (keep)", "3, 52 tokens scored", "where they differ most"):
        assert label in ran.out, label
    assert "The ferry leaves at seven." in ran.out


def test_a_sum(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("probe", "course_rec@1", "--with", "course_rec@2:0.5", "--prompts", prompts)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("The fused model answers as base + adapter: KL ")
    # Names are cut at 80 columns, the same on both sides.
    lines = [line.split(maxsplit=1)[1] for line in ran.out.splitlines() if line.startswith(("a ", "b "))]
    assert [
        line.startswith(("base + course_rec_v1_20260115 + 0.5 x", "course_rec_v1_20260115 + 0.5 x"))
        for line in lines
    ] == [True] * 2


def test_as_json(stocked: Fusery, prompts: Path) -> None:
    words = ("probe", "course_rec@1", "--against", "base", "--prompts", prompts, "--limit", "2", "--json")
    ran = stocked(*words)
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["prompts"] == len(ran.json["rows"]) == 2
    assert ran.json["a"]["name"] == "course_rec_v1_20260115"
    assert ran.json["b"] == {**ran.json["b"], "kind": "base", "name": "tiny"}
    assert ran.json["conclusion"].startswith("The adapter changed ")


def test_prompts_that_are_not_of_the_task_are_told_of(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("probe", "course_rec@1", "--against", "base", "--prompts", prompts)
    assert ran.code == 0
    assert "These prompts are unlike what the adapter was trained on" in ran.out
    assert "Hint: give prompts of its task" in ran.err
    built_in = stocked("probe", "course_rec@1", "--against", "base", "--limit", "2")
    assert "tokens scored; built-in ones" in built_in.out


def test_names_only(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("probe", "course_rec@1", "--against", "course_rec@2", "--prompts", prompts, "-q")
    assert ran.out == "course_rec_v1_20260115\ncourse_rec_v2_20260201\n"
    assert ran.err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tiny",), "say what to compare it with"),
        (("course_rec@1", "--against", "base", "--precision", "keep"), "leave --precision and --with out"),
        (("course_rec@1", "--prompts", "absent.jsonl"), "there is no file"),
        (("course_rec@1", "--against", "nothing@1"), "there is no adapter"),
        (("course_rec@1", "--limit", "0"), "--limit"),
    ],
)
def test_what_cannot_be_compared_is_exit_code_2(words: tuple[str, ...], said: str, stocked: Fusery) -> None:
    ran = stocked("probe", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_fuse_with_a_second_opinion(stocked: Fusery) -> None:
    ran = stocked("fuse", "course_rec@1", "--probe", "auto")
    assert ran.code == 0, ran.err
    assert "no second opinion: tiny is not quantised" in ran.err
    assert ran.out.startswith("fused ")
    for words, said in (
        (("fuse", "course_rec@1", "--precision", "keep", "--probe", "auto"), "leave out --precision"),
        (("fuse", "--all", "--probe", "auto"), "fusery fuse REF --probe auto"),
        (("fuse", "course_rec@1", "--probe", "auto", "--probe-within", "0"), "--probe-within"),
    ):
        refused = stocked(*words)
        assert (refused.code, refused.out) == (2, ""), words
        assert said in refused.err
