"""Probing the real language model with the trained adapters that come with fusery."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from course_bundles import MARKS, model_file

from fusery.cli.main import run

pytestmark = MARKS
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "course_rec"
VALIDATION = ("--prompts", EXAMPLES / "data" / "valid.jsonl", "--limit", "8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a registry with SmolLM2-135M-Instruct and two adapters that recommend courses; a probe adds nothing to it."""
    home = tmp_path_factory.mktemp("smollm2") / "home"
    words = ("--base", "SmolLM2-135M-Instruct", "--task", "course_rec")
    assert called(home, "base", "add", model_file(), "--name", "SmolLM2-135M-Instruct")
    for adapter in sorted(EXAMPLES.glob("adapters_*")):
        assert called(home, "register", adapter, *words)
    return home


def called(home: Path, *words: str | Path) -> Any:
    """Run a command of the command line in this process, which has mlx-lm in it already; return its document."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run(["--home", *map(str, (home, *words)), "--json"])
    assert code == 0, printed.getvalue()
    return json.loads(printed.getvalue())


def test_it_sees_what_was_learned_and_that_fusing_kept_it(home: Path) -> None:
    learned = called(home, "probe", "course_rec@2", "--against", "base", *VALIDATION)
    assert learned["loss_a"] < 0.2
    assert learned["loss_b"] == learned["loss_base"] > 3
    assert learned["kl"] > 1
    assert learned["conclusion"].startswith("The adapter changed what the model says")
    fused = called(home, "probe", "course_rec@2", *VALIDATION)
    assert fused["b"]["precision"] == "keep"
    assert fused["kl"] < 1e-3
    assert fused["top1_agreement"] > 0.98
    assert abs(fused["gain_kept"] - 1) < 0.01
    assert (fused["loss_a"], fused["loss_base"]) == pytest.approx(
        (learned["loss_a"], learned["loss_base"]), rel=1e-4
    )


def test_the_second_version_is_the_better_one(home: Path) -> None:
    versions = called(home, "probe", "course_rec@1", "--against", "course_rec@2", *VALIDATION)
    assert versions["loss_b"] < versions["loss_a"] < versions["loss_base"]
    assert versions["kl"] > 0.02
