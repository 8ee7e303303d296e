"""Runs that transformers' own `Trainer` has made: which of their checkpoints is registered, with what."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from peft_folders import peers_python

from fusery.registry import Registry
from fusery.registry.admission import AdmissionError
from fusery.registry.errors import BadInputError
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace
from fusery.storage.digest import digest_file
from fusery.storage.errors import MissingFileError

PEER = Path(__file__).parents[2] / "support/models/trainer_peer.py"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny", layout="hf", dtype="float32")


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `trainer_peer.py`; not to be changed."""
    out = tmp_path_factory.mktemp("runs")
    subprocess.run([peers_python(), PEER, base, out], check=True, capture_output=True)
    return out


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def opened(home: Path) -> Registry:
    """What lies in a folder has nothing to do with the database: one of them is enough."""
    given = {"home": home, "database_url": "", "store_url": "", "store_options": {}}
    settings = Settings(**given, cache_dir=None, cache_limit=1 << 40, user="tester")  # type: ignore[arg-type]
    return Registry(Workspace(settings))


@pytest.fixture(scope="module")
def stocked_home(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a registry with the base, to be copied."""
    home = tmp_path_factory.mktemp("stocked") / "home"
    with opened(home) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
    (home / "config.toml").unlink(missing_ok=True)  # it names the place
    return home


@pytest.fixture
def with_base(stocked_home: Path, tmp_path: Path) -> Iterator[Registry]:
    with opened(Path(shutil.copytree(stocked_home, tmp_path / "home"))) as registry:
        yield registry


def register(registry: Registry, folder: Path, **facts: Any) -> dict[str, Any]:
    view = registry.adapters.register(folder, base="tiny", task="t", **facts)
    return registry.adapters.show(view["name"])


def codes(view: dict[str, Any]) -> set[str]:
    """The warnings, without that of the great steps by which a tiny model gets worse within eight of them."""
    found = {finding["code"] for finding in view["findings"] if finding["severity"] != "info"}
    return found - {"update_large"}


def weights_of(view: dict[str, Any]) -> str:
    return next(file["sha256"] for file in view["files"] if file["path"] == WEIGHTS)


def history(folder: Path) -> dict[int, float]:
    """The losses on held-out data that the trainer measured while it trained, by step."""
    found: dict[int, float] = {}
    for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"]:
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
    """The run went back to step 6, and measured that under step 8; which weights lie in the folder, nothing says."""
    view = register(with_base, runs / "pruned")
    assert (view["val_loss"], view["iterations"]) == (history(runs / "plain")[8], 8)
    assert codes(view) == {"final_weights_unclear", "better_unsaved"}


def test_one_checkpoint_is_what_its_folder_says(with_base: Registry, runs: Path) -> None:
    losses = history(runs / "plain")
    view = register(with_base, runs / "plain/checkpoint-4")
    assert (view["val_loss"], view["iterations"]) == (losses[4], 4)
    assert view["training_run"]["chosen"] == "iteration"
    assert view["training_run"]["state"] == "unknown"
    assert codes(view) == set()
    with pytest.raises(BadInputError, match="no checkpoint 2; there are 4"):
        register(with_base, runs / "plain/checkpoint-4", checkpoint="2")


def test_a_folder_of_weights_with_the_state_beside_them(with_base: Registry, runs: Path) -> None:
    for checkpoint in (runs / "plain").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    view = register(with_base, runs / "plain")
    assert (view["val_loss"], view["iterations"]) == (history(runs / "plain")[8], 8)
    assert codes(view) == {"better_unsaved"}


def test_the_run_s_folder_gives_the_name(with_base: Registry, runs: Path) -> None:
    for number, place in enumerate(
        (runs / "course_rec_v1_20260115", runs / "course_rec_v2_20260201/checkpoint-4"), 1
    ):
        shutil.copytree(runs / "bare", place if number == 1 else place.parent)
        found = with_base.adapters.register(place, base="tiny")
        assert found["name"].startswith(f"course_rec_v{number}_2026")


def test_the_trainer_s_own_choice_by_another_measure(with_base: Registry, runs: Path) -> None:
    path = runs / "plain/trainer_state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "best_global_step": 4, "best_metric": 0.9}))
    view = register(with_base, runs / "plain")
    assert (view["val_loss"], view["iterations"]) == (history(runs / "plain")[4], 4)
    said = next(each for each in view["findings"] if each["code"] == "best_not_last")
    assert (
        "checkpoint 4 is what the trainer calls the best" in said["message"]
        or "has the best" in said["message"]
    )


def test_before_transformers_4_50_the_best_is_named_by_its_folder(with_base: Registry, runs: Path) -> None:
    path = runs / "plain/trainer_state.json"
    state = json.loads(path.read_text())
    del state["best_global_step"]
    path.write_text(json.dumps({**state, "best_model_checkpoint": "/elsewhere/out/checkpoint-2"}))
    assert register(with_base, runs / "plain")["iterations"] == 2


def test_checkpoints_of_an_earlier_run_are_left_out(with_base: Registry, runs: Path) -> None:
    """Two runs into one folder: the losses of one are not those of the other's weights."""
    earlier = shutil.copytree(runs / "plain/checkpoint-8", runs / "plain/checkpoint-900")
    edit_state(earlier, global_step=900, shift=-5.0)
    os.utime(earlier / "trainer_state.json", (1, 1))
    view = register(with_base, runs / "plain")
    assert (view["iterations"], view["val_loss"]) == (6, history(runs / "plain")[6])
    said = next(each for each in view["findings"] if each["code"] == "stale_checkpoint")
    assert "the history in checkpoint-900 contradicts that of the newest checkpoint" in said["message"]


def test_a_shorter_run_after_a_longer_one(with_base: Registry, runs: Path) -> None:
    """Its own checkpoints are those with its own history, also where the other's have more steps."""
    (runs / "plain/trainer_state.json").unlink()
    for number, name in enumerate(("checkpoint-6", "checkpoint-8")):
        edit_state(runs / "plain" / name, shift=-5.0)
        os.utime(runs / "plain" / name / "trainer_state.json", (number, number))
    losses = history(runs / "plain/checkpoint-4")
    view = register(with_base, runs / "plain")
    assert (view["iterations"], view["val_loss"]) == (4, losses[4])
    assert "stale_checkpoint" in {each["code"] for each in view["findings"]}


def test_a_run_that_was_taken_up_again(with_base: Registry, runs: Path) -> None:
    """The state beside the checkpoints is that of the first part."""
    state = json.loads((runs / "plain/checkpoint-4/trainer_state.json").read_text())
    (runs / "plain/trainer_state.json").write_text(json.dumps(state))
    view = register(with_base, runs / "plain")
    assert (view["iterations"], view["val_loss"]) == (6, history(runs / "plain/checkpoint-8")[6])
    assert "stale_checkpoint" not in {each["code"] for each in view["findings"]}


@pytest.mark.parametrize("broken", ["no state", "half a state", "half of the weights"])
def test_a_run_that_was_killed_while_it_saved(with_base: Registry, runs: Path, broken: str) -> None:
    last = runs / "bare/checkpoint-8"
    file = last / ("trainer_state.json" if "state" in broken else WEIGHTS)
    content = file.read_bytes()
    file.unlink()
    if broken != "no state":
        file.write_bytes(content[: len(content) // 2])
    losses = history(runs / "plain")
    view = register(with_base, runs / "bare")
    assert (view["iterations"], view["val_loss"]) == (6, losses[6])
    said = next(each for each in view["findings"] if each["code"] == "checkpoint_unusable")
    assert said["message"] == "checkpoint-8 is not whole; not used"


def test_where_no_state_can_be_read_that_is_said(with_base: Registry, runs: Path) -> None:
    for path in (runs / "bare").glob("*/trainer_state.json"):
        path.write_text("{")
    view = register(with_base, runs / "bare")
    assert (view["iterations"], view["val_loss"]) == (8, None)
    assert codes(view) == {"record_unusable"}


def test_of_several_sets_of_held_out_data_no_loss_is_taken(with_base: Registry, runs: Path) -> None:
    """The trainer logs each of them in an entry of its own."""
    for path in (runs / "bare").glob("*/trainer_state.json"):
        state = json.loads(path.read_text())
        for entry in list(state["log_history"]):
            if "eval_loss" in entry:
                state["log_history"].append({"step": entry["step"], "eval_b_loss": 1.0})
                entry["eval_a_loss"] = entry.pop("eval_loss")
        path.write_text(json.dumps({**state, "best_global_step": 4}))
    view = register(with_base, runs / "bare")
    assert (view["iterations"], view["val_loss"]) == (4, None)


def test_what_is_measured_after_the_end_stands_for_no_checkpoint(with_base: Registry, runs: Path) -> None:
    path = runs / "plain/trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"].append({"step": 8, "eval_loss": 0.5})
    path.write_text(json.dumps(state))
    view = register(with_base, runs / "plain", checkpoint="last")
    assert (view["iterations"], view["val_loss"]) == (8, history(runs / "bare/checkpoint-8")[8])


def test_the_first_step_is_a_step(with_base: Registry, runs: Path) -> None:
    """mlx-lm measures the untrained model under 1, and transformers under 0."""
    folder = (runs / "bare/checkpoint-2").rename(runs / "bare/checkpoint-1")
    entries = [{"step": 0, "eval_loss": 9.0}, {"step": 1, "eval_loss": 1.0}, {"step": 4, "eval_loss": 2.0}]
    for name, step in (("checkpoint-1", 1), ("checkpoint-4", 4)):
        said = {"global_step": step, "log_history": [each for each in entries if each["step"] <= step]}
        (folder.parent / name / "trainer_state.json").write_text(json.dumps(said))
    for name in ("checkpoint-6", "checkpoint-8"):
        shutil.rmtree(folder.parent / name)
    view = register(with_base, folder.parent)
    assert (view["iterations"], view["val_loss"]) == (1, 1.0)
    assert "worse_than_start" not in codes(view)


def test_a_state_that_contradicts_the_checkpoint_s_own_is_said(with_base: Registry, runs: Path) -> None:
    other = runs / "other.json"
    shutil.copyfile(runs / "plain/trainer_state.json", other)
    for folder in (runs / "bare", runs / "bare/checkpoint-4"):
        state = json.loads(other.read_text())
        state["log_history"] = [
            {**each, "loss": 3.25} if "loss" in each else each for each in state["log_history"]
        ]
        other.write_text(json.dumps(state))
        found = with_base.adapters.check(folder, base="tiny", task="t", log=other)
        said = next(each for each in found if each.code == "training_conflict")
        assert "other.json has another loss than the trainer_state.json" in said.message


def test_many_files_beside_a_checkpoint_hide_none(with_base: Registry, runs: Path) -> None:
    for number in range(11_000):
        (runs / "bare" / f"{number}").touch()
    assert register(with_base, runs / "bare")["iterations"] == 6


def test_names_that_are_no_checkpoint_s(with_base: Registry, runs: Path) -> None:
    for name in ("checkpoint-00006", "checkpoint-99999999999", "checkpoint-2147483648"):
        shutil.copytree(runs / "bare/checkpoint-2", runs / "bare" / name)
    assert register(with_base, runs / "bare")["iterations"] == 6


def test_a_log_that_cannot_be_read_is_the_user_s(with_base: Registry, runs: Path, tmp_path: Path) -> None:
    for folder in (runs / "bare", runs / "bare/checkpoint-4"):
        with pytest.raises(MissingFileError):
            with_base.adapters.check(folder, base="tiny", task="t", log=tmp_path / "nope.json")
    os.mkfifo(tmp_path / "pipe.log")
    for log in (tmp_path / "pipe.log", Path("/dev/zero")):
        with pytest.raises(MissingFileError, match="is not a file that can be read"):
            with_base.adapters.check(runs / "bare/checkpoint-4", base="tiny", task="t", log=log)
    with pytest.raises(BadInputError, match="path of the log"):
        with_base.adapters.check(runs / "bare", base="tiny", task="t", log="a\0b")


def test_a_terabyte_of_nothing_is_not_compared(with_base: Registry, runs: Path) -> None:
    for place in (runs / "plain", runs / "plain/checkpoint-8"):
        os.truncate(place / WEIGHTS, 1 << 40)
    assert register(with_base, runs / "plain")["iterations"] == 6


def edit_state(folder: Path, shift: float = 0.0, **changes: Any) -> None:
    """Change what a state says, its losses by so much."""
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text())
    for entry in state["log_history"]:
        for name in ("loss", "eval_loss"):
            if name in entry:
                entry[name] += shift
    path.write_text(json.dumps({**state, **changes}))


def test_a_negative_loss_is_not_recorded_for_the_adapter(with_base: Registry, runs: Path) -> None:
    edit_state(runs / "plain/checkpoint-4", shift=-100.0)
    found = register(with_base, runs / "plain/checkpoint-4")
    assert "loss_negative" in codes(found)
    assert found.val_loss is None


def test_a_loss_that_is_not_finite(with_base: Registry, runs: Path) -> None:
    """Python's writer writes NaN, which JSON does not have."""
    path = runs / "plain/checkpoint-4/trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"][0]["loss"] = float("nan")
    path.write_text(json.dumps(state))
    assert "NaN" in path.read_text()
    assert codes(register(with_base, runs / "plain/checkpoint-4")) == {"loss_not_finite"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"global_step": -1, "log_history": []}',
        '{"global_step": 1e3, "log_history": []}',
        '{"global_step": true, "log_history": []}',
        '{"global_step": 4, "log_history": {}}',
        "[" * 100_000,
        '{"global_step": 4, "log_history": [' + "1," * 200_001 + "1]}",
        '{"global_step": 4, "log_history": [' + "[[]]," * 400_000 + "1]}",
    ],
)
def test_a_state_that_is_none_is_said_and_not_used(with_base: Registry, runs: Path, text: str) -> None:
    (runs / "plain/checkpoint-4/trainer_state.json").write_text(text)
    view = register(with_base, runs / "plain/checkpoint-4")
    assert (view["val_loss"], view["training_run"]) == (None, None)
    assert codes(view) == {"record_unusable"}
    with pytest.raises(BadInputError, match="trainer_state.json") as caught:
        register(with_base, runs / "plain/checkpoint-2", log=runs / "plain/checkpoint-4/trainer_state.json")
    assert caught.value.hint


def test_odd_entries_measure_nothing(with_base: Registry, runs: Path) -> None:
    path = runs / "plain/checkpoint-4/trainer_state.json"
    odd = [
        7,
        None,
        {"step": "2", "eval_loss": 1.0},
        {"step": 10**30, "eval_loss": 1.0},
        {"step": 2, "eval_loss": "low", "loss": [1], "learning_rate": {}},
        {"step": 3, "eval_loss": 1e300},
        {"step": 4, "eval_loss": 1.25, "num_tokens": 1e300},
    ]
    path.write_text(json.dumps({"global_step": 4, "log_history": odd}))
    view = register(with_base, runs / "plain/checkpoint-4")
    assert [(p["iteration"], p["val_loss"]) for p in view["curve"]] == [(4, 1.25)]
    assert view["training_run"]["trained_tokens"] is None


def test_a_state_elsewhere_can_be_given(with_base: Registry, runs: Path) -> None:
    losses = history(runs / "plain")
    (runs / "plain/checkpoint-4/trainer_state.json").unlink()
    view = register(with_base, runs / "plain/checkpoint-4", log=runs / "plain/trainer_state.json")
    assert (view["val_loss"], view["iterations"]) == (losses[4], 4)
    for state in (runs / "bare").glob("*/trainer_state.json"):
        state.unlink()
    view = register(with_base, runs / "bare", log=runs / "plain/trainer_state.json")
    assert (view["val_loss"], view["iterations"]) == (losses[6], 6)
    text = runs / "train.log"
    text.write_text("Iter 1: Val loss 2.0, Val took 1.0s\n")
    with pytest.raises(
        BadInputError, match=r"output folder of a trainer, whose curve is in trainer_state\.json"
    ):
        register(with_base, runs / "bare", log=text)


def test_without_any_state_the_last_checkpoint_is_registered(with_base: Registry, runs: Path) -> None:
    for state in (runs / "bare").glob("*/trainer_state.json"):
        state.unlink()
    view = register(with_base, runs / "bare")
    assert (view["val_loss"], view["iterations"], view["training_run"]["source"]) == (None, 8, "config")


def test_the_trainer_s_own_files_stay_behind_and_are_no_warning(with_base: Registry, runs: Path) -> None:
    beside = {path.name for path in (runs / "plain/checkpoint-6").iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} <= beside
    view = register(with_base, runs / "plain")
    assert {file["path"] for file in view["files"]} == {WEIGHTS, "adapter_config.json"}
    assert "pickle_file" not in codes(view)
    (runs / "plain/checkpoint-4/other.pkl").write_bytes(b"\x80\x04.")
    found = with_base.adapters.check(runs / "plain/checkpoint-4", base="tiny", task="t")
    said = {finding.code: finding.message for finding in found}
    assert "other.pkl" in said["pickle_file"]
    assert "optimizer.pt" not in said["pickle_file"]
    assert "optimizer.pt" in said["trainer_file"]


def test_a_link_for_a_checkpoint_is_none(with_base: Registry, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint-2").symlink_to(runs / "plain/checkpoint-2")
    with pytest.raises(AdmissionError):
        register(with_base, out)


def test_mlx_s_form_from_unsloth(with_base: Registry, base: Path, tmp_path: Path) -> None:
    """Its trainer for MLX leaves `checkpoint-STEP` with a state, `best` and the last weights (unsloth-zoo ce232d6c)."""
    out = tmp_path / "out"
    for step in (10, 20):
        made = tiny_models.make_adapter(out / f"checkpoint-{step}", base, seed=step, rank=2)
        (made / "optimizer_state.safetensors").write_bytes(b"")
        state = {
            "global_step": step,
            "best_step": 15,
            "best_metric": 1.5,
            "log_history": [
                {"step": at, "loss": 3.0, "eval_loss": {5: 2.0, 10: 1.8, 15: 1.5, 20: 1.9}[at]}
                for at in range(5, step + 1, 5)
            ],
        }
        (made / "trainer_state.json").write_text(json.dumps(state))
    best = tiny_models.make_adapter(out / "best", base, seed=15, rank=2)
    tiny_models.make_adapter(out, base, seed=15, rank=2)
    view = register(with_base, out)
    assert (view["val_loss"], view["iterations"], view["training_run"]["chosen"]) == (1.5, 15, "best")
    kept = next(file["sha256"] for file in view["files"] if file["path"] == "adapters.safetensors")
    assert kept == digest_file(best / "adapters.safetensors")[0]
    assert register(with_base, out, checkpoint=20)["val_loss"] == 1.9


def unsloth_config(folder: Path, **changes: Any) -> None:
    """Write the configuration that Unsloth's trainer for MLX writes (unsloth-zoo ce232d6c, `mlx/utils.py`)."""
    path = folder / "adapter_config.json"
    mlx = json.loads(path.read_text())
    lora = mlx["lora_parameters"]
    tensors = tiny_models.read_tensors(folder / "adapters.safetensors")
    paths = sorted(
        {name.rpartition(".")[0] for name in tensors}
    )  # whole ones, where mlx-lm writes those within a layer
    config = {
        "base_model_name_or_path": "org/tiny",
        "base_model_commit_hash": "a" * 40,
        "requires_unsloth_mlx_runtime_quantization": False,
        "lora_parameters": {**{key: lora[key] for key in ("rank", "scale", "dropout")}, "keys": paths},
        "rank": lora["rank"],
        "scale": lora["scale"],
        "dropout": lora["dropout"],
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
    with pytest.raises(AdmissionError, match="base_mismatch: .*'org/another', and the base given is 'tiny'"):
        with_base.adapters.register(folder, base="tiny")
    quantised = {"bits": 4, "group_size": 64, "mode": "affine"}
    unsloth_config(folder, requires_unsloth_mlx_runtime_quantization=True, base_quantization_config=quantised)
    found = with_base.adapters.check(folder, base="tiny", task="other")
    said = {finding.code: finding.message for finding in found}
    assert "quantised to 4 bits while it was trained, and tiny is not" in said["base_quantised_in_training"]
