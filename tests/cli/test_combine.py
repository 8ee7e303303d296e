"""`fusery combine` and `shrink` as people and scripts see them."""

from __future__ import annotations

import pytest
from fixture_types import Fusery

from fusery.cli import combine
from fusery.registry.combining import methods

KEYS = {
    "name", "sources", "recipe", "modules", "retained", "relative_error", "least_module", "least_retained", "bytes",
    "dry_run",
}  # fmt: skip


def test_combine_for_people_scripts_and_once_more(stocked: Fusery) -> None:
    words = ("combine", "course_rec@1", "course_rec@2", "--weights", "0.7,0.3")
    said = stocked(*words, "--dry-run")
    assert said.code == 0
    assert said.out.startswith("Nothing was made")
    assert "of the weighted sum of the updates (least:" in said.out
    before = stocked(*words, "--dry-run", "--json").json
    assert before.keys() == KEYS
    assert (before["name"], before["dry_run"]) == (None, True)
    made = stocked(*words, "--json").json
    assert made.keys() == KEYS | {"adapter"}
    assert made["adapter"]["created"] is True
    assert (made["name"], made["dry_run"]) == (made["adapter"]["name"], False)
    assert {key: made[key] for key in KEYS - {"name", "dry_run"}} == {
        key: before[key] for key in KEYS - {"name", "dry_run"}
    }
    again = stocked(*words)
    assert again.out.startswith(f"Already registered: {made['name']}")
    assert "course_rec_v1_20260115 x 0.7, course_rec_v2_20260201 x 0.3" in again.out
    assert stocked(*words, "-q").out.split() == [made["name"]]
    shown = stocked("show", made["name"])
    assert "course_rec_v1_20260115, course_rec_v2_20260201" in shown.out
    assert "svd, rank 8, weights 0.7, 0.3, fusery " in shown.out


def test_the_command_has_every_method() -> None:
    assert combine.METHODS == methods.METHODS


def test_shrink(stocked: Fusery) -> None:
    said = stocked("shrink", "course_rec@1", "--rank", "2", "--dry-run", "-q")
    assert (said.code, said.out) == (0, "")
    made = stocked("shrink", "course_rec@1", "--rank", "2", "--task", "small", "--tag", "a=b", "--note", "n")
    assert made.out.startswith("Registered: small_v1_")
    assert "% of the update (least: " in made.out
    assert stocked("list", "--task", "small", "--json").json[0]["rank"] == 2
    gone = stocked("yank", "course_rec@1", "--reason", "worse")
    assert "small_v1_" in gone.out
    assert "was computed from these weights, and is not yanked by this" in gone.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("combine", "course_rec@1"), "one adapter alone"),
        (("combine", "course_rec@1", "course_rec@2", "--weights", "1,x"), "write numbers with commas"),
        (("combine", "course_rec@1", "course_rec@2", "--weights", "1,2,3"), "3 weights for 2 adapters"),
        (("combine", "course_rec@1", "course_rec@2", "--method", "ties"), "it is not said which"),
        (("combine", "course_rec@1", "course_rec@2", "--method", "ties", "--density", "nan"), "no density"),
        (("combine", "course_rec@1", "course_rec@2", "--method", "mean"), "'mean' is not one of"),
        (("combine", "course_rec@1", "course_rec@2", "--method", "linear"), "must be of one rank"),
        (("combine", "course_rec@1", "nothing@1"), "nothing"),
        (("combine",), "Missing argument"),
        (("shrink", "course_rec@1"), "Missing option '--rank'"),
        (("shrink", "course_rec@1", "--rank", "9"), "is not shrunk to 9"),
        (("shrink", "course_rec@1", "--rank", "-1"), "invalid rank: -1"),
        (("shrink", "course_rec@1", "--rank", "2", "--task", "a/b"), "a/b"),
    ],
)
def test_wrong_words_are_told_in_a_sentence(stocked: Fusery, words: tuple[str, ...], said: str) -> None:
    before = stocked("list", "-q").out
    ran = stocked(*words)
    assert ran.code in (1, 2)
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert stocked("list", "-q").out == before
