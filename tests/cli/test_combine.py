"""`fusery combine` and `shrink` as people and scripts see them."""

from __future__ import annotations

from fixture_types import Fusery

from .conftest import require_refusals


def test_refusals_register_nothing(stocked: Fusery) -> None:
    before = stocked("list", "-q").out
    both = "combine course_rec@1 course_rec@2"
    require_refusals(
        stocked,
        ("combine course_rec@1", "--rank R"),
        (f"{both} --weights 1,x", "commas"),
        (f"{both} --weights 1,2,3", "3 weights for 2 adapters"),
        (f"{both} --method ties", "density"),
        (f"{both} --method ties --density nan", "density"),
        (f"{both} --method tsv --density 0.5", "density"),
        (f"{both} --method mean", "usage"),
        (f"{both} --method linear", "rank"),
        ("combine course_rec@1 nothing@1", "unknown_reference"),
        ("combine", "usage"),
        ("combine course_rec@1 --rank 9", "9"),
        ("combine course_rec@1 --rank -1", "invalid rank"),
        ("combine course_rec@1 --rank 2 --task a/b", "a/b"),
    )
    assert stocked("list", "-q").out == before


def test_interference_is_shown_and_the_next_command_named(stocked: Fusery) -> None:
    both = ("combine", "course_rec@1", "course_rec@2", "--task", "both", "--method", "tsv")
    before = stocked(*both, "--dry-run")
    [line] = [line for line in before.out.splitlines() if line.startswith("retains")]
    assert "% of course_rec_v1_20260115, " in line
    assert any(line.startswith("interference") for line in before.out.splitlines())
    assert "Next" not in before.err
    assert "--method tsv" not in before.err
    assert "Hint: --method tsv" in stocked(*both[:-1], "svd", "--dry-run").err
    after = stocked(*both)
    assert line in after.out
    name = stocked("show", "both@1", "-q").out.strip()
    assert f"Next: fusery eval run {name} --prompts FILE" in after.err
