"""`fusery combine` and `shrink` as people and scripts see them."""

from __future__ import annotations

import pytest
from fixture_types import Fusery

from fusery.cli import compare
from fusery.registry.comparison import methods

from .conftest import require_refusals

KEYS = {
    "name", "sources", "recipe", "modules", "retained", "relative_error", "least_module", "least_retained", "bytes",
    "dry_run",
}  # fmt: skip


@pytest.mark.slow
def test_combine_for_people_scripts_and_once_more(stocked: Fusery) -> None:
    assert compare.METHODS == methods.METHODS
    words = ("combine", "course_rec@1", "course_rec@2", "--weights", "0.7,0.3")
    assert stocked(*words, "--dry-run").out.startswith("Nothing was made")
    before = stocked(*words, "--dry-run", "--json").json
    assert before.keys() == KEYS
    assert (before["name"], before["dry_run"]) == (None, True)
    made = stocked(*words, "--json").json
    assert made.keys() == KEYS | {"adapter"}
    assert made["adapter"]["created"] is True
    assert (made["name"], made["dry_run"]) == (made["adapter"]["name"], False)
    assert all(made[key] == before[key] for key in KEYS - {"name", "dry_run"})
    again = stocked(*words)
    assert again.out.startswith(f"Already registered: {made['name']}")
    assert "course_rec_v1_20260115 x 0.7, course_rec_v2_20260201 x 0.3" in again.out
    assert stocked(*words, "-q").out.split() == [made["name"]]
    assert "svd, rank 8, weights 0.7, 0.3, fusery " in stocked("show", made["name"]).out


def test_refusals_register_nothing(stocked: Fusery) -> None:
    before = stocked("list", "-q").out
    both = "combine course_rec@1 course_rec@2"
    require_refusals(
        stocked,
        ("combine course_rec@1", "one adapter alone"),
        (f"{both} --weights 1,x", "commas"),
        (f"{both} --weights 1,2,3", "3 weights for 2 adapters"),
        (f"{both} --method ties", "density"),
        (f"{both} --method ties --density nan", "density"),
        (f"{both} --method mean", "usage"),
        (f"{both} --method linear", "rank"),
        ("combine course_rec@1 nothing@1", "unknown_reference"),
        ("combine", "usage"),
        ("combine course_rec@1", "one adapter alone"),
        ("combine course_rec@1 --rank 9", "9"),
        ("combine course_rec@1 --rank -1", "invalid rank"),
        ("combine course_rec@1 --rank 2 --task a/b", "a/b"),
    )
    assert stocked("list", "-q").out == before
