"""Which checkpoint of a run is registered, with what, and what is said about it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_run, plain_log, register, table_log

from fusery.registry import Registry
from fusery.registry.admission.code import AdmissionError
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.storage.digest import digest_file
from fusery.storage.errors import FormatError, MissingFileError

MakeRun = Callable[..., Path]
VAL = {1: 5.0, 200: 2.0, 400: 1.5, 600: 1.2, 800: 1.4, 1000: 1.8}
CONFIGS = sorted((Path(__file__).parent / "configs").glob("*.json"))


@pytest.fixture
def with_base(registry: Registry, tiny_base: Path) -> Registry:
    registry.bases.add(tiny_base, name="tiny")
    return registry


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path) -> MakeRun:
    numbers = itertools.count()
    return lambda **how: make_run(tmp_path / f"run{next(numbers)}", tiny_base, **how)


def codes(view: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in view["findings"]}


@pytest.mark.parametrize("printed", [plain_log, table_log])
def test_the_best_is_registered_with_its_own_loss_and_the_curve_so_far(
    with_base: Registry, run: MakeRun, printed: Callable[..., str]
) -> None:
    folder = run(saved=range(100, 1001, 100), log=printed(VAL, dict.fromkeys(range(10, 1001, 10), 3.0)))
    view = register(with_base, folder)
    assert (view["val_loss"], view["iterations"]) == (1.2, 600)
    weights = next(file["sha256"] for file in view["files"] if file["path"] == "adapters.safetensors")
    assert weights == digest_file(folder / "0000600_adapters.safetensors")[0]
    assert [point["iteration"] for point in view["curve"]][-1] == 600
    losses = {point["iteration"]: point["val_loss"] for point in view["curve"] if point["val_loss"]}
    assert losses == {at: loss for at, loss in VAL.items() if at <= 600}
    training = view["training_run"]
    assert (training["chosen"], training["checkpoint"], training["state"]) == ("best", 600, "finished")
    assert training["best"] == {"iteration": 600, "val_loss": 1.2}
    assert training["last"] == {"iteration": 1000, "val_loss": 1.8}
    assert "best_not_last" in codes(view)
    last = register(with_base, folder, checkpoint="last")
    assert (last["val_loss"], last["iterations"], last["training_run"]["chosen"]) == (1.8, 1000, "last")
    assert "best_not_last" not in codes(last)
    for checkpoint, loss in (("400", 1.5), (300, None)):
        view = register(with_base, folder, checkpoint=checkpoint)
        assert (view["val_loss"], view["iterations"]) == (loss, int(checkpoint))


def test_advice_about_the_run(with_base: Registry, run: MakeRun) -> None:
    """A run of 100 iterations with 10 of `examples` each has read 10,000 tokens in `1000 / examples` passes."""
    given = {
        "log": plain_log({}, {100: 3.0}).replace("1.000e-04", "1.000e-05"),
        "iters": 100,
        "batch_size": 10,
    }
    warming = plain_log({}, {50: 3.0, 100: 3.0})
    numbers = register(with_base, run(**given))["trainable_parameters"]
    assert 3000 < numbers < 4900
    most = 1000 * 2 * numbers // 10_000
    for advised, how, examples in (
        ({"learning_rate_low", "rank_low"}, given, most + 1),
        ({"learning_rate_low"}, given, most - 1),
        ({"learning_rate_low"}, given, None),
        ({"learning_rate_low"}, {"learning_rate": 1.6e-5}, None),  # times 40 / 32: alpha is 20 * 2
        (set(), {"learning_rate": 1.7e-5}, None),
        (set(), {"learning_rate": 1e-5, "lr_schedule": {"name": "cosine_decay"}}, None),
        (set(), {"learning_rate": 1e-5, "optimizer": "muon"}, None),
        (set(), {"learning_rate": 1e-5, "resume_adapter_file": "adapters.safetensors"}, None),
        (
            set(),
            {"log": warming.replace("1.000e-04", "1.000e-06", 1).replace("1.000e-04", "1.000e-05")},
            None,
        ),
    ):
        found = with_base.adapters.check(run(**how), base="tiny", task="t", examples=examples)
        assert {finding.code for finding in found} & {"learning_rate_low", "rank_low"} == advised


def test_checkpoints_that_are_not_there_are_refused(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=250, steps_per_eval=100)
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    for wanted in ("250", "1100", "0", "1"):
        with pytest.raises(BadInputError, match="100, 200") as caught:
            register(with_base, folder, checkpoint=wanted)
        assert caught.value.exit_code == 2
    for wanted in ("first", "-1", "1.5", "", "1" * 11, True):
        with pytest.raises(BadInputError):
            register(with_base, folder, checkpoint=wanted)
    assert with_base.adapters.list() == []


def test_without_a_curve_it_is_the_last(with_base: Registry, run: MakeRun, make_adapter: Any) -> None:
    view = register(with_base, run(saved=(100, 200), iters=250))
    training = view["training_run"]
    assert (view["iterations"], training["chosen"], training["source"]) == (250, "last", "config")
    with pytest.raises(BadInputError):
        register(with_base, run(saved=(100, 200), iters=250), checkpoint="best")
    plain = register(with_base, make_adapter())
    assert (plain["training_run"], plain["curve"]) == (None, [])
    assert plain["iterations"] == json.loads((make_adapter() / "adapter_config.json").read_text())["iters"]


def test_nothing_saved_was_validated(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(200,), iters=1000, log=plain_log({1: 5, 250: 1.0}, {260: 1.0}))
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    view = register(with_base, folder)
    assert (view["iterations"], view["val_loss"], view["training_run"]["chosen"]) == (200, None, "last")
    assert "better_unsaved" in codes(view)
    with pytest.raises(BadInputError):
        register(with_base, folder, checkpoint="best")


def test_a_run_that_was_killed(with_base: Registry, run: MakeRun) -> None:
    """`adapters.safetensors` is the last checkpoint then, byte for byte."""
    folder = run(saved=(100, 200), iters=1000, log=plain_log({1: 5, 100: 2, 200: 3}, {230: 1.0}))
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    last = register(with_base, folder, checkpoint="last")
    assert (last["iterations"], last["val_loss"], last["training_run"]["state"]) == (200, 3.0, "unknown")
    (folder / "adapters.safetensors").unlink()
    assert register(with_base, folder)["iterations"] == 100, "numbered checkpoints alone will do"


def test_checkpoints_of_an_earlier_run_are_left_alone(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200, 900), iters=200)
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    view = register(with_base, folder, checkpoint="last")
    assert view["iterations"] == 200 and "stale_checkpoint" in codes(view)
    assert any("not used: 0000900_adapters.safetensors" in each["message"] for each in view["findings"])
    with pytest.raises(BadInputError, match="there are 100, 200"):
        register(with_base, folder, checkpoint="900")


def test_a_bad_checkpoint_does_not_get_in(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=200, log=plain_log({1: 5, 100: 1, 200: 2}))
    (folder / "0000100_adapters.safetensors").write_bytes(b"torn")
    with pytest.raises(AdmissionError):
        register(with_base, folder)
    assert register(with_base, folder, checkpoint="last")["iterations"] == 200
    for name in ("adapters.safetensors", "0000200_adapters.safetensors"):
        os.truncate(folder / name, 1 << 40)  # to compare them would take minutes
    with pytest.raises(AdmissionError):
        register(with_base, folder, checkpoint="last")


def test_losses_that_are_told_of(with_base: Registry, run: MakeRun) -> None:
    worse = run(saved=(100, 200), iters=200, log=plain_log({1: 1.0, 100: 3, 200: 2}))
    assert {"worse_than_start"} <= codes(register(with_base, worse))
    log = plain_log({1: 5, 100: 2}) + "Iter 200: Val loss nan, Val took 1.000s\n"
    view = register(with_base, run(saved=(100, 200), iters=200, log=log))
    assert (view["iterations"], "loss_not_finite" in codes(view)) == (100, True)


def test_a_log_that_is_given(with_base: Registry, run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "out.txt"
    log.write_text(plain_log(VAL))
    assert register(with_base, run(saved=(600, 1000)), log=log)["iterations"] == 600
    folder = run()
    register(with_base, folder)
    with pytest.raises(AlreadyExistsError):  # it comes too late for a record
        register(with_base, folder, log=log)
    with pytest.raises(BadInputError):  # of another run
        register(with_base, run(iters=500), log=log)
    view = register(with_base, run(iters=500, log=plain_log(VAL)))
    assert (view["curve"], view["val_loss"], "log_of_another_run" in codes(view)) == ([], None, True)
    log.write_text("hello")
    with pytest.raises(BadInputError):
        register(with_base, run(), log=log)
    with pytest.raises(MissingFileError):
        register(with_base, run(), log=tmp_path / "nowhere.txt")
    os.truncate(log, (1 << 30) + 1)
    with pytest.raises(FormatError):
        register(with_base, run(), log=log)


def test_several_logs_in_the_folder_are_ambiguous(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(600, 1000), log=plain_log(VAL))
    (folder / "again.txt").write_text(plain_log(VAL))
    (folder / "notes.txt").write_text("nothing")
    with pytest.raises(BadInputError) as caught:
        register(with_base, folder)
    assert f"--log {folder / 'again.txt'}" in str(caught.value.hint)
    assert caught.value.message.startswith(f"{folder.name} holds 2 training logs")
    assert register(with_base, folder, log=str(folder / "train.log"))["iterations"] == 600


def conflicts(view: dict[str, Any]) -> set[str]:
    return {each["subject"] for each in view["findings"] if each["code"] == "training_conflict"}


def test_contradictions_of_the_hand_written_file(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(600, 1000), log=plain_log(VAL))
    path = folder / "adapter_metadata.json"
    path.write_text(json.dumps({"final_val_loss": 0.9}))
    view = register(with_base, folder, checkpoint="last")
    assert (conflicts(view), view["val_loss"]) == ({"final_val_loss"}, 1.8)
    for agreeing in (1.8, 1.2):  # the last, the best
        path.write_text(json.dumps({"final_val_loss": agreeing}))
        assert conflicts(register(with_base, folder)) == set()
    chosen = run(saved=(400, 600, 1000), log=plain_log(VAL))
    for loss, checkpoint, agrees in ((1.2, "last", True), (VAL[400], 400, True), (VAL[400], "last", False)):
        (chosen / "adapter_metadata.json").write_text(json.dumps({"final_val_loss": loss}))
        found = with_base.adapters.check(chosen, base="tiny", task="t", checkpoint=checkpoint)
        assert ("final_val_loss" in {finding.subject for finding in found}) != agrees, (loss, checkpoint)


def test_the_flag_wins(with_base: Registry, run: MakeRun) -> None:
    view = register(with_base, run(saved=(600, 1000), log=plain_log(VAL)), val_loss=1.0)
    assert (view["val_loss"], conflicts(view)) == (1.0, {"val_loss"})


@pytest.mark.parametrize("defaults", CONFIGS, ids=lambda path: path.stem)
def test_the_configuration_of_every_generation_of_mlx_lm(
    with_base: Registry, run: MakeRun, defaults: Path
) -> None:
    """The defaults of `mlx_lm/lora.py` at eight commits since it saves a configuration, with today's adapters."""
    said = json.loads(defaults.read_text())
    folder = run(saved=(200, 400), iters=400, log=plain_log({1: 5, 200: 2, 400: 3}))
    layers = "lora_layers" if "lora_layers" in said else "num_layers"
    lora = {**said["lora_parameters"], "rank": 2}
    config = {**said, "model": "tiny", "iters": 400, layers: 1, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4))
    view = register(with_base, folder)
    assert (view["iterations"], view["val_loss"], view["method"]) == (200, 2.0, "lora")
    assert (view["rank"], view["scale"], view["layers"]) == (2, lora["scale"], 1)
    assert not {f["code"] for f in view["findings"] if f["severity"] == "error"}
