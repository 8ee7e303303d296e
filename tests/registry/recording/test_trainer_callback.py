"""The callback in real trainers: transformers' own, and TRL's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from peft_folders import ROOT, peers_python

from fusery.registry import Registry

PEER = ROOT / "tests/support/models/callback_peer.py"

pytestmark = [pytest.mark.slow, pytest.mark.timing]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry") / "home"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def told(home: Path, out: Path) -> dict[str, Any]:
    base = tiny_models.make_base(out / "tiny", layout="hf", dtype="float32")
    with Registry.open(home) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [peers_python(), PEER, base, out, home], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_trl_run_is_registered(told: dict[str, Any], home: Path, out: Path) -> None:
    assert told["sft"]["error"] is None
    with Registry.open(home) as registry:
        view = registry.adapters.show(told["sft"]["adapter"])
    history = json.loads((out / "sft/checkpoint-4/trainer_state.json").read_text())["log_history"]
    losses = {each["step"]: each["eval_loss"] for each in history if "eval_loss" in each}
    best = min(losses, key=lambda step: (losses[step], -step))
    assert (view["task"], view["iterations"], view["val_loss"]) == ("sft", best, losses[best])
    assert view["dataset"] == "course_questions/easy:train"
    assert len(view["dataset_revision"]) == 16  # the fingerprint that `datasets` computes
    assert view["examples"] == 16
    run = view["training_run"]
    assert (run["source"], run["state"], run["chosen"]) == ("record", "finished", "best")
    assert {"torch", "transformers", "peft", "trl", "datasets", "python"} <= run["versions"].keys()
    assert run["arguments"]["max_steps"] == 4
    assert run["seconds"] is not None
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    tokenizer = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert {file["path"] for file in view["files"]} == weights | tokenizer


def test_what_the_trainer_does_not_save_the_callback_does(told: dict[str, Any], home: Path) -> None:
    with Registry.open(home) as registry:
        view = registry.adapters.show(told["unsaved"]["adapter"])
    assert (view["iterations"], view["val_loss"], view["examples"]) == (2, None, 16)
    assert view["dataset"] is None


def test_what_is_refused_is_a_warning_and_ends_no_training(told: dict[str, Any], out: Path) -> None:
    for run, said in (("refused", "unheard_of"), ("broken", "RuntimeError")):
        assert told[run]["adapter"] is None
        (warned,) = told[run]["warned"]
        assert warned.startswith("fusery registered nothing of this run: ")
        assert said in warned
    assert (out / "refused/checkpoint-2/adapter_model.safetensors").is_file()
    # An unknown argument is refused before training starts.
    assert "taks" in told["mistyped"]["error"]


def test_checkpoints_of_another_run_are_left(told: dict[str, Any], home: Path) -> None:
    with Registry.open(home) as registry:
        view = registry.adapters.show(told["again"]["adapter"])
    assert (view["task"], view["iterations"], view["val_loss"]) == ("again", 2, None)
