"""`register`, `check` and `show` on training runs, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import make_run, plain_log

from .conftest import Fusery, require_refusals

VAL = {1: 5.0, 200: 2.0, 400: 1.2, 600: 1.5}
WORDS = ("--base", "tiny", "--task", "t")


@pytest.fixture
def run(stocked: Fusery, tiny_base: Path, tmp_path: Path) -> Path:
    return make_run(
        tmp_path / "run", tiny_base, saved=(200, 400, 600), iters=600, log=plain_log(VAL, {600: 1.0})
    )


def test_the_best_with_a_word_when_it_is_not_the_last(stocked: Fusery, run: Path) -> None:
    ran = stocked("register", run, *WORDS)
    assert ran.code == 0
    assert "checkpoint 400 has the lowest loss, 1.200; the last, 600, has 1.500" in ran.out
    assert stocked("register", run, *WORDS, "--checkpoint", "last").out.startswith("Registered: t_v2_")
    assert stocked("check", run, *WORDS, "--checkpoint", "200", "--json").json["findings"] == []


def test_refusals(stocked: Fusery, run: Path, tmp_path: Path) -> None:
    (run / "train.log").rename(tmp_path / "elsewhere.log")
    register = f"register {run} {' '.join(WORDS)}"
    done = stocked(*register.split(), "--log", "elsewhere.log", "--json")
    assert done.json["iterations"] == 400
    (tmp_path / "taken.png").write_bytes(b"mine")
    require_refusals(
        stocked,
        (f"{register} --checkpoint 500", "200, 400, 600"),
        (f"{register} --log nowhere.log", "nowhere.log"),
        ("show course_rec@1 --plot x.png", "no training curve"),
        ("show t@1 --plot x.gif", ".png or .svg"),
        ("show t@1 --force", "--force goes with --plot"),
        ("show t@1 --plot taken.png", "taken.png"),
    )
    assert (tmp_path / "taken.png").read_bytes() == b"mine"
    assert not (tmp_path / "x.png").exists()
    view = stocked("show", "course_rec@1", "--json").json
    assert (view["training_run"], view["curve"], view["dataset_digest"]) == (None, [], None)
