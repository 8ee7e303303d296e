"""`register`, `check` and `show` on training runs, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import make_run, plain_log

from .conftest import Fusery

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
    assert "checkpoint 400 has the best validation loss, 1.200; the last, 600, has 1.500" in ran.out
    assert stocked("register", run, *WORDS, "--checkpoint", "last").out.startswith("Registered: t_v2_")
    assert stocked("check", run, *WORDS, "--checkpoint", "200", "--json").json["findings"] == []


def test_a_checkpoint_that_is_not_there(stocked: Fusery, run: Path) -> None:
    ran = stocked("register", run, *WORDS, "--checkpoint", "500")
    assert (ran.code, ran.out) == (2, "")
    assert "run has no checkpoint 500; there are 200, 400, 600" in ran.err
    assert "--checkpoint best|last|ITER" in ran.err


def test_a_log_by_its_name(stocked: Fusery, run: Path, tmp_path: Path) -> None:
    (run / "train.log").rename(tmp_path / "elsewhere.log")
    assert stocked("register", run, *WORDS, "--log", "elsewhere.log", "--json").json["iterations"] == 400
    assert stocked("register", run, *WORDS, "--log", "nowhere.log").code == 2


def test_the_curve_is_shown_and_drawn(stocked: Fusery, run: Path, tmp_path: Path) -> None:
    stocked("register", run, *WORDS)
    shown = stocked("show", "t@1")
    assert "▁" in shown.out
    assert "checkpoint  400 (best); best 400 with validation loss 1.2; last 600 with 1.5" in shown.out
    view = stocked("show", "t@1", "--json").json
    assert [point["iteration"] for point in view["curve"]] == [1, 200, 400]
    for name in ("curve.png", "curve.svg"):
        assert stocked("show", "t@1", "--plot", name, "-q").out == f"{tmp_path / name}\n"
        assert (tmp_path / name).stat().st_size > 1000
    first = (tmp_path / "curve.svg").read_bytes()
    again = stocked("show", "t@1", "--plot", "curve.svg", "--force")
    assert (again.code, again.out.splitlines()[1].split()) == (0, ["picture", str(tmp_path / "curve.svg")])
    assert (tmp_path / "curve.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("course_rec@1", "--plot", "x.png"), "there is no training curve on record for course_rec_v1"),
        (("t@1", "--plot", "x.gif"), ".png or .svg"),
        (("t@1", "--force"), "--force goes with --plot"),
        (("t@1", "--plot", "taken.png"), "there is a file"),
    ],
)
def test_what_cannot_be_drawn(
    stocked: Fusery, run: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    stocked("register", run, *WORDS)
    (tmp_path / "taken.png").write_bytes(b"mine")
    ran = stocked("show", *words)
    assert (ran.code, said in ran.err) == (2, True)
    assert (tmp_path / "taken.png").read_bytes() == b"mine"
    assert not (tmp_path / "x.png").exists()


def test_an_adapter_without_a_run_is_shown_as_before(stocked: Fusery) -> None:
    view = stocked("show", "course_rec@1", "--json").json
    assert (view["training_run"], view["curve"], view["dataset_digest"]) == (None, [], None)
    assert "\ntraining\n" not in stocked("show", "course_rec@1").out
