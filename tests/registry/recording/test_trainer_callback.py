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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry") / "home"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def told(home: Path, out: Path) -> dict[str, Any]:
    """What the callbacks say, once all runs are over."""
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


def test_trl_s_run_is_registered_with_its_data_versions_and_curve(
    told: dict[str, Any], home: Path, out: Path
) -> None:
    assert told["sft"]["error"] is None
    with Registry.open(home) as registry:
        view = registry.adapters.show(told["sft"]["adapter"])
    history = json.loads((out / "sft/checkpoint-4/trainer_state.json").read_text())["log_history"]
    losses = {each["step"]: each["eval_loss"] for each in history if "eval_loss" in each}
    best = min(losses, key=lambda step: (losses[step], -step))
    assert (view["task"], view["iterations"], view["val_loss"]) == ("sft", best, losses[best])
    assert view["dataset"] == "course_questions/easy:train"
    assert len(view["dataset_revision"]) == 16  # what `datasets` calls its fingerprint
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
    refused = told["refused"]
    assert refused["adapter"] is None
    assert refused["error"] == "there is no base model 'unheard_of'"
    assert len(refused["warned"]) == 1
    assert "fusery registered nothing of this run: there is no base model" in refused["warned"][0]
    assert (out / "refused/checkpoint-2/adapter_model.safetensors").is_file()


def test_whatever_goes_wrong_ends_no_training(told: dict[str, Any]) -> None:
    assert told["broken"]["adapter"] is None
    (warned,) = told["broken"]["warned"]
    assert warned == "fusery registered nothing of this run: RuntimeError: something that nobody thought of"


def test_what_cannot_be_said_is_refused_before_the_training(told: dict[str, Any]) -> None:
    assert "taks" in told["mistyped"]["error"]


def test_another_run_s_checkpoints_in_the_folder_are_not_taken_for_this_one_s(
    told: dict[str, Any], home: Path
) -> None:
    with Registry.open(home) as registry:
        view = registry.adapters.show(told["again"]["adapter"])
    assert (view["task"], view["iterations"], view["val_loss"]) == ("again", 2, None)
