"""What people are told of yanks and of fused models, on both streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

YANKED, TWIN = "course_rec_v1_20260115", "other_v1_20260301"
SAME = f"the same bytes were yanked as {YANKED}: leaks"
HOLDS = f"contains the weights of {YANKED}, which is yanked: leaks"


@pytest.fixture
def twins(stocked: Fusery, tiny_base: Path, tmp_path: Path) -> Fusery:
    """Two names for the same bytes, of which one is yanked, and a sum with that one."""
    known = ("--base", "tiny", "--date", "20260301")
    assert stocked("register", tmp_path / "first", *known, "--task", "other").code == 0
    child = tiny_models.make_adapter(tmp_path / "child", tiny_base, seed=3)
    assert stocked("register", child, *known, "--task", "child", "--parent", "course_rec@1").code == 0
    way = ("--as", "keep", "--accept-loss")
    assert stocked("fuse", "course_rec@2", *way, "--with", "course_rec@1:0.5").code == 0
    ran = stocked("yank", "course_rec@1", "--reason", "leaks")
    assert f"the same bytes are {TWIN}, which is not yanked by this" in ran.out
    assert "it was continued to child_v1_20260301, which is not yanked by this" in ran.out
    return stocked


@pytest.mark.slow
def test_a_twin_may_be_used_and_its_user_is_told(twins: Fusery) -> None:
    ways = {
        "fuse other@1": HOLDS,
        "materialize other@1 apart --target adapters": HOLDS,
        "get other@1 exported": SAME,
        "alias set other@1 prod": SAME,
        "deploy record other@1 lab": SAME,
        "fuse --all --task other --jobs 1": HOLDS,
        "push other@1 --to there": f"{TWIN}: {SAME}",
        "diff other@1 course_rec@2": f"{TWIN}: {SAME}",
    }
    for words, note in ways.items():
        ran = twins(*words.split())
        assert (ran.code, f"Note: {note}" in ran.err, "Note:" in ran.out) == (0, True, False), (
            words,
            ran.err,
        )
    promoted = twins("promote", "other@1", "stable")
    assert (promoted.code, f"not_yanked: it is not withdrawn; {SAME}" in promoted.out) == (0, True)
    refused = twins("fuse", "course_rec@1")
    assert (refused.code, f"{YANKED} was yanked by tester" in refused.err) == (2, True)
