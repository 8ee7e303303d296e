"""Output folders of transformers' Trainer and of what is built on it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from peft_folders import peers_python
from run_folders import register

from fusery.registry import Registry
from fusery.registry.admission.code import AdmissionError
from fusery.registry.errors import BadInputError
from fusery.storage.digest import digest_file
from fusery.storage.errors import MissingFileError

pytestmark = pytest.mark.timing


PEER = Path(__file__).parents[2] / "support/models/trainer_peer.py"
WEIGHTS, STATE = "adapter_model.safetensors", "trainer_state.json"


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `trainer_peer.py`; not to be changed."""
    out = tmp_path_factory.mktemp("runs")
    subprocess.run([peers_python(), PEER, base, out], check=True, capture_output=True)
    return out


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def chosen(registry: Registry, folder: Path, **facts: Any) -> tuple[int, float | None]:
    """Register what lies in a folder; return which checkpoint was chosen, and its loss."""
    view = register(registry, folder, **facts)
    return view["iterations"], view["val_loss"]


def codes(view: dict[str, Any]) -> set[str]:
    found = {finding["code"] for finding in view["findings"] if finding["severity"] != "info"}
    return found - {"update_large"}


def weights_of(view: dict[str, Any]) -> str:
    return next(file["sha256"] for file in view["files"] if file["path"] == WEIGHTS)


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / STATE).read_text())
    return found


def history(folder: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in state_of(folder)["log_history"]:
        if "eval_loss" in entry:
            found.setdefault(entry["step"], entry["eval_loss"])
    return found


def test_the_best_checkpoint_of_an_output_folder_with_its_loss_and_the_curve(
    with_base: Registry, runs: Path
) -> None:
    losses = history(runs / "plain")
    assert list(losses) == [2, 4, 6, 8]
    assert min(losses, key=losses.__getitem__) == 6, "the run is to end worse than it was"
    view = register(with_base, runs / "plain")
    assert (view["val_loss"], view["iterations"]) == (losses[6], 6)
    assert weights_of(view) == digest_file(runs / "plain/checkpoint-6" / WEIGHTS)[0]
    assert {p["iteration"]: p["val_loss"] for p in view["curve"] if p["val_loss"]} == {
        step: loss for step, loss in losses.items() if step <= 6
    }
    assert [p["iteration"] for p in view["curve"] if p["train_loss"]] == [1, 2, 3, 4, 5, 6]
    training = view["training_run"]
    assert (training["chosen"], training["checkpoint"], training["state"]) == ("best", 6, "finished")
    assert training["last"] == {"iteration": 8, "val_loss": losses[8]}
    assert training["trained_tokens"] == 512
    assert codes(view) == set()


@pytest.mark.parametrize("name", ["best", "bare"])
def test_the_state_of_the_last_checkpoint_does_where_none_lies_beside(
    with_base: Registry, runs: Path, name: str
) -> None:
    losses = history(runs / "plain")
    view = register(with_base, runs / name)
    assert (view["val_loss"], view["iterations"]) == (losses[6], 6)
    assert codes(view) == set()
    last = register(with_base, runs / name, checkpoint="last")
    assert (last["val_loss"], last["iterations"]) == (losses[8], 8)
    assert weights_of(last) == digest_file(runs / "plain/checkpoint-8" / WEIGHTS)[0]


def test_what_was_measured_of_the_best_weights_at_the_end_is_not_the_last_one_s(
    with_base: Registry, runs: Path
) -> None:
    """The run went back to step 6 and logged its loss as step 8: the folder's weights may be of either."""
    view = register(with_base, runs / "pruned")
    assert (view["val_loss"], view["iterations"]) == (history(runs / "plain")[8], 8)
    assert codes(view) == {"final_weights_unclear", "better_unsaved"}


def test_one_checkpoint_is_what_its_folder_says(with_base: Registry, runs: Path) -> None:
    losses = history(runs / "plain")
    view = register(with_base, runs / "plain/checkpoint-4")
    assert (view["val_loss"], view["iterations"]) == (losses[4], 4)
    training = view["training_run"]
    assert (training["chosen"], training["state"], codes(view)) == ("iteration", "unknown", set())
    with pytest.raises(BadInputError):
        register(with_base, runs / "plain/checkpoint-4", checkpoint="2")
    for checkpoint in (runs / "plain").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    view = register(with_base, runs / "plain")
    assert (view["val_loss"], view["iterations"]) == (losses[8], 8)
    assert codes(view) == {"better_unsaved"}


def test_the_trainer_s_own_choice_by_another_measure(with_base: Registry, runs: Path) -> None:
    edit_state(runs / "plain", best_global_step=4, best_metric=0.9)
    assert chosen(with_base, runs / "plain") == (4, history(runs / "plain")[4])
    # Before transformers 4.50 the state names the best checkpoint's folder.
    edit_state(runs / "plain", best_global_step=None, best_model_checkpoint="/elsewhere/out/checkpoint-2")
    assert register(with_base, runs / "plain")["iterations"] == 2


def test_checkpoints_of_an_earlier_run_are_left_out(with_base: Registry, runs: Path) -> None:
    """Two runs in one folder: the losses of one must not be attributed to the weights of the other."""
    earlier = shutil.copytree(runs / "plain/checkpoint-8", runs / "plain/checkpoint-900")
    edit_state(earlier, global_step=900, shift=-5.0)
    os.utime(earlier / STATE, (1, 1))
    view = register(with_base, runs / "plain")
    assert (view["iterations"], view["val_loss"]) == (6, history(runs / "plain")[6])
    assert "checkpoint-900" in said(view)["stale_checkpoint"]


def said(view: dict[str, Any]) -> dict[str, str]:
    return {finding["code"]: finding["message"] for finding in view["findings"]}


@pytest.mark.parametrize("broken", ["no state", "half a state", "half of the weights"])
def test_a_run_that_was_killed_while_it_saved(with_base: Registry, runs: Path, broken: str) -> None:
    file = runs / "bare/checkpoint-8" / (STATE if "state" in broken else WEIGHTS)
    if broken == "no state":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    view = register(with_base, runs / "bare")
    assert (view["iterations"], view["val_loss"]) == (6, history(runs / "plain")[6])
    assert "checkpoint-8" in said(view)["checkpoint_unusable"]


def test_without_any_state_the_last_checkpoint_is_registered(with_base: Registry, runs: Path) -> None:
    for path in (runs / "bare").glob(f"*/{STATE}"):
        path.write_text("{")
    view = register(with_base, runs / "bare")
    assert (view["iterations"], view["val_loss"], codes(view)) == (8, None, {"record_unusable"})
    for path in (runs / "bare").glob(f"*/{STATE}"):
        path.unlink()
    view = register(with_base, runs / "bare", checkpoint=6)
    assert (view["iterations"], view["val_loss"], view["training_run"]["source"]) == (6, None, "config")


def test_of_several_sets_of_held_out_data_no_loss_is_taken(with_base: Registry, runs: Path) -> None:
    """The trainer logs each data set in an entry of its own."""
    for path in (runs / "bare").glob("checkpoint-*"):
        entries = state_of(path)["log_history"]
        for entry in [each for each in entries if "eval_loss" in each]:
            entries.append({"step": entry["step"], "eval_b_loss": 1.0})
            entry["eval_a_loss"] = entry.pop("eval_loss")
        edit_state(path, log_history=entries, best_global_step=4)
    assert chosen(with_base, runs / "bare") == (4, None)


def test_a_state_that_contradicts_the_checkpoint_s_own_is_said(with_base: Registry, runs: Path) -> None:
    edit_state(runs / "plain", shift=0.25)
    folder = runs / "bare/checkpoint-4"
    found = with_base.adapters.check(folder, base="tiny", task="t", log=runs / "plain" / STATE)
    assert "training_conflict" in {each.code for each in found}


def test_other_names_beside_checkpoints_are_none(with_base: Registry, runs: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-00006", "checkpoint-99999999999", "checkpoint-2147483648"):
        shutil.copytree(runs / "bare/checkpoint-2", runs / "bare" / name)
    for number in range(11_000):  # many other files do not hide the checkpoints
        (runs / "bare" / f"{number}").touch()
    (tmp_path / "latest").symlink_to(runs / "bare")
    assert register(with_base, tmp_path / "latest")["iterations"] == 6
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint-2").symlink_to(runs / "plain/checkpoint-2")
    with pytest.raises(AdmissionError):
        register(with_base, tmp_path / "out")


def test_a_log_that_cannot_be_read_is_the_user_s(with_base: Registry, runs: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.log")
    missing, checkpoint = tmp_path / "missing.json", runs / "bare/checkpoint-4"
    for log in (missing, tmp_path / "pipe.log", Path("/dev/zero")):
        with pytest.raises(MissingFileError):
            with_base.adapters.check(checkpoint, base="tiny", task="t", log=log)
    # The checkpoints of an output folder have their curve.
    with pytest.raises(BadInputError) as caught:
        with_base.adapters.check(runs / "bare", base="tiny", task="t", log=missing)
    assert caught.value.hint == "leave out --log"
    with pytest.raises(BadInputError) as caught:
        with_base.adapters.check(runs / "bare", base="tiny", task="t", log="a\0b")
    assert caught.value.hint != "leave out --log"


def test_a_terabyte_of_nothing_is_not_compared(with_base: Registry, runs: Path) -> None:
    shutil.copytree(runs / "bare", runs / "course_rec_v1_20260115")
    shutil.copytree(runs / "bare", runs / "course_rec_v2_20260201")
    for place, version in (("course_rec_v1_20260115", 1), ("course_rec_v2_20260201/checkpoint-4", 2)):
        name = with_base.adapters.register(runs / place, base="tiny")["name"]
        assert name.startswith(f"course_rec_v{version}_2026"), "the run's folder gives the name"
    for place in (runs / "plain", runs / "plain/checkpoint-8"):
        os.truncate(place / WEIGHTS, 1 << 40)
    assert register(with_base, runs / "plain")["iterations"] == 6


def edit_state(folder: Path, shift: float = 0.0, **changes: Any) -> None:
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text())
    for entry in state["log_history"]:
        for name in ("loss", "eval_loss"):
            if name in entry:
                entry[name] += shift
    path.write_text(json.dumps({**state, **changes}))


def test_losses_that_can_be_none(with_base: Registry, runs: Path) -> None:
    folder = runs / "plain/checkpoint-4"
    entries = state_of(folder)["log_history"]
    edit_state(folder, shift=-100.0)
    found = register(with_base, folder)
    assert "loss_negative" in codes(found)
    assert found.val_loss is None
    # Python's json module writes NaN, which is not valid JSON.
    edit_state(folder, log_history=[{**entries[0], "loss": math.nan}, *entries[1:]])
    assert "NaN" in (folder / STATE).read_text()
    found = with_base.adapters.check(folder, base="tiny", task="t")
    assert "loss_not_finite" in {each.code for each in found}


NO_STATES = [
    "",
    "{}",
    '{"global_step": -1, "log_history": []}',
    '{"global_step": 1e3, "log_history": []}',
    '{"global_step": 4, "log_history": {}}',
    "[" * 100_000,
    '{"global_step": 4, "log_history": [' + "1," * 200_001 + "1]}",
    '{"global_step": 4, "log_history": [' + "[[]]," * 400_000 + "1]}",
]


def test_a_state_that_is_none_is_said_and_not_used(with_base: Registry, runs: Path) -> None:
    folder = runs / "plain/checkpoint-4"
    for text in NO_STATES:
        (folder / STATE).write_text(text)
        found = {each.code for each in with_base.adapters.check(folder, base="tiny", task="t")}
        assert "record_unusable" in found, text[:50]
        with pytest.raises(BadInputError) as caught:
            register(with_base, runs / "plain/checkpoint-2", log=folder / STATE)
        assert caught.value.hint
    view = register(with_base, folder)
    assert (view["val_loss"], view["training_run"]) == (None, None)


def test_odd_entries_measure_nothing(with_base: Registry, runs: Path) -> None:
    odd = [
        None,
        {"step": "2", "eval_loss": 1.0},
        {"step": 10**30, "eval_loss": 1.0},
        {"step": 2, "eval_loss": "low", "loss": [1], "learning_rate": {}},
        {"step": 4, "eval_loss": 1.25, "num_tokens": 1e300},
    ]
    (runs / "plain/checkpoint-4" / STATE).write_text(json.dumps({"global_step": 4, "log_history": odd}))
    view = register(with_base, runs / "plain/checkpoint-4")
    assert [(p["iteration"], p["val_loss"]) for p in view["curve"]] == [(4, 1.25)]
    assert view["training_run"]["trained_tokens"] is None


def test_a_state_elsewhere_can_be_given(with_base: Registry, runs: Path) -> None:
    losses, log = history(runs / "plain"), runs / "plain" / STATE
    (runs / "plain/checkpoint-4" / STATE).unlink()
    assert chosen(with_base, runs / "plain/checkpoint-4", log=log) == (4, losses[4])


def test_the_trainer_s_own_files_stay_behind_and_are_no_warning(with_base: Registry, runs: Path) -> None:
    beside = {path.name for path in (runs / "plain/checkpoint-6").iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} <= beside
    view = register(with_base, runs / "plain")
    assert {file["path"] for file in view["files"]} == {WEIGHTS, "adapter_config.json"}
    assert "pickle_file" not in codes(view)
    (runs / "plain/checkpoint-4/other.pkl").write_bytes(b"\x80\x04.")
    found = with_base.adapters.check(runs / "plain/checkpoint-4", base="tiny", task="t")
    messages = {finding.code: finding.message for finding in found}
    assert "other.pkl" in messages["pickle_file"] and "optimizer.pt" not in messages["pickle_file"]
    assert "optimizer.pt" in messages["trainer_file"]


def test_mlx_s_form_from_unsloth(with_base: Registry, base: Path, tmp_path: Path) -> None:
    """Its trainer for MLX leaves `checkpoint-STEP` with a state, `best` and the last weights (unsloth-zoo ce232d6c)."""
    out, losses = tmp_path / "out", {5: 2.0, 10: 1.8, 15: 1.5, 20: 1.9}
    for step in (10, 20):
        made = tiny_models.make_adapter(out / f"checkpoint-{step}", base, seed=step, rank=2)
        (made / "optimizer_state.safetensors").write_bytes(b"")
        log = [{"step": at, "loss": 3.0, "eval_loss": loss} for at, loss in losses.items() if at <= step]
        state = {"global_step": step, "best_step": 15, "best_metric": 1.5, "log_history": log}
        (made / "trainer_state.json").write_text(json.dumps(state))
    best = tiny_models.make_adapter(out / "best", base, seed=15, rank=2)
    tiny_models.make_adapter(out, base, seed=15, rank=2)
    view = register(with_base, out)
    assert (view["val_loss"], view["iterations"], view["training_run"]["chosen"]) == (1.5, 15, "best")
    kept = next(file["sha256"] for file in view["files"] if file["path"] == "adapters.safetensors")
    assert kept == digest_file(best / "adapters.safetensors")[0]
    assert register(with_base, out, checkpoint=20)["val_loss"] == 1.9


def unsloth_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    mlx = json.loads(path.read_text())
    lora = {key: mlx["lora_parameters"][key] for key in ("rank", "scale", "dropout")}
    tensors = tiny_models.read_tensors(folder / "adapters.safetensors")
    # Paths from the root of the model; mlx-lm writes paths within a layer.
    paths = sorted({name.rpartition(".")[0] for name in tensors})
    config = {
        **lora,
        "base_model_name_or_path": "org/tiny",
        "base_model_commit_hash": "a" * 40,
        "requires_unsloth_mlx_runtime_quantization": False,
        "lora_parameters": {**lora, "keys": paths},
        "num_layers": mlx["num_layers"],
        "fine_tune_type": "lora",
        "peft_type": "LORA",
        "unsloth_mlx_lora_module_paths": paths,
    }
    path.write_text(json.dumps({**config, **changes}, indent=2))


def test_the_base_that_unsloth_on_mlx_names_is_held_against_the_one_given(
    with_base: Registry, base: Path, tmp_path: Path
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "lessons_v1_20260301", base, seed=3, rank=2)
    unsloth_config(folder)
    made = with_base.adapters.register(folder)
    assert (made["base"], codes(made)) == ("tiny", set())
    with_base.fused.fuse(made)
    unsloth_config(folder, base_model_name_or_path="org/another")
    with pytest.raises(AdmissionError) as caught:
        with_base.adapters.register(folder, base="tiny")
    assert caught.value.findings[0].code == "base_mismatch"
    quantised = {"bits": 4, "group_size": 64, "mode": "affine"}
    unsloth_config(folder, requires_unsloth_mlx_runtime_quantization=True, base_quantization_config=quantised)
    found = with_base.adapters.check(folder, base="tiny", task="other")
    assert "base_quantised_in_training" in {finding.code for finding in found}
