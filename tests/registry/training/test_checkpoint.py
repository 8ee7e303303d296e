"""Which checkpoint of a run is registered, with what, and what is said about it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_run, plain_log, table_log

from fusery.registry import Registry
from fusery.registry.admission import AdmissionError
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
    return partial(make_run, tmp_path / "run", tiny_base)


def register(registry: Registry, folder: Path, **facts: Any) -> dict[str, Any]:
    view = registry.adapters.register(folder, base="tiny", task="t", **facts)
    return registry.adapters.show(view["name"])


def codes(view: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in view["findings"]}


def weights_of(view: dict[str, Any]) -> str:
    return next(file["sha256"] for file in view["files"] if file["path"] == "adapters.safetensors")


@pytest.mark.parametrize("printed", [plain_log, table_log])
def test_the_best_is_registered_with_its_own_loss_and_the_curve_so_far(
    with_base: Registry, run: MakeRun, printed: Callable[..., str]
) -> None:
    folder = run(saved=range(100, 1001, 100), log=printed(VAL, dict.fromkeys(range(10, 1001, 10), 3.0)))
    view = register(with_base, folder)
    assert (view["val_loss"], view["iterations"]) == (1.2, 600)
    assert weights_of(view) == digest_file(folder / "0000600_adapters.safetensors")[0]
    assert [point["iteration"] for point in view["curve"]][-1] == 600
    assert {p["iteration"]: p["val_loss"] for p in view["curve"] if p["val_loss"]} == {
        at: loss for at, loss in VAL.items() if at <= 600
    }
    training = view["training_run"]
    assert (training["chosen"], training["checkpoint"], training["state"]) == ("best", 600, "finished")
    assert training["best"] == {"iteration": 600, "val_loss": 1.2}
    assert training["last"] == {"iteration": 1000, "val_loss": 1.8}
    said = next(finding for finding in view["findings"] if finding["code"] == "best_not_last")
    assert "checkpoint 600 has the best validation loss, 1.200; the last, 1000, has 1.800" in said["message"]


def test_the_last_and_one_by_its_iteration_on_request(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=range(100, 1001, 100), log=plain_log(VAL))
    last = register(with_base, folder, checkpoint="last")
    assert (last["val_loss"], last["iterations"], last["training_run"]["chosen"]) == (1.8, 1000, "last")
    assert "best_not_last" not in codes(last)
    third = register(with_base, folder, checkpoint="400")
    assert (third["val_loss"], third["iterations"], third["version"]) == (1.5, 400, 2)
    unmeasured = register(with_base, folder, checkpoint="300")
    assert (unmeasured["val_loss"], unmeasured["iterations"]) == (None, 300)
    assert register(with_base, folder, checkpoint=600)["version"] == 4


@pytest.mark.parametrize("wanted", ["250", "1100", "0", "1"])
def test_a_checkpoint_that_is_not_there_names_those_that_are(
    with_base: Registry, run: MakeRun, wanted: str
) -> None:
    folder = run(saved=(100, 200), iters=250, steps_per_eval=100)
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    with pytest.raises(BadInputError, match="there are 100, 200") as caught:
        register(with_base, folder, checkpoint=wanted)
    assert caught.value.exit_code == 2
    assert with_base.adapters.list() == []


def test_without_a_curve_it_is_the_last(with_base: Registry, run: MakeRun) -> None:
    view = register(with_base, run(saved=(100, 200), iters=250))
    assert (view["iterations"], view["training_run"]["chosen"], view["training_run"]["source"]) == (
        250, "last", "config",
    )  # fmt: skip
    with pytest.raises(BadInputError, match="no validation loss is on record"):
        register(with_base, run(saved=(100, 200), iters=250), checkpoint="best")


def test_a_plain_adapter_is_what_it_was(with_base: Registry, make_adapter: Any) -> None:
    view = register(with_base, make_adapter())
    assert view["training_run"] is None
    assert view["curve"] == []
    assert view["iterations"] == json.loads((make_adapter() / "adapter_config.json").read_text())["iters"]


def test_a_loss_without_weights_is_nobodys(with_base: Registry, run: MakeRun) -> None:
    """Validated at 250 and 500, saved at 200, 400 and the end: only the end was both."""
    folder = run(saved=(200, 400), iters=500, log=plain_log({1: 5, 250: 1.0, 500: 1.5}))
    view = register(with_base, folder)
    assert (view["iterations"], view["val_loss"]) == (500, 1.5)
    said = next(finding for finding in view["findings"] if finding["code"] == "better_unsaved")
    assert "was 1.000 at iteration 250" in said["message"]
    assert "validated and not saved: 250" in said["message"]


def test_nothing_saved_was_validated(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(200,), iters=1000, log=plain_log({1: 5, 250: 1.0}, {260: 1.0}))
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    view = register(with_base, folder)
    assert (view["iterations"], view["val_loss"], view["training_run"]["chosen"]) == (200, None, "last")
    assert "better_unsaved" in codes(view)
    with pytest.raises(BadInputError, match="validated were 250"):
        register(with_base, folder, checkpoint="best")


def test_a_run_that_was_killed(with_base: Registry, run: MakeRun) -> None:
    """`adapters.safetensors` is the last checkpoint then, byte for byte."""
    folder = run(saved=(100, 200), iters=1000, log=plain_log({1: 5, 100: 2, 200: 3}, {230: 1.0}))
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    last = register(with_base, folder, checkpoint="last")
    assert (last["iterations"], last["val_loss"], last["training_run"]["state"]) == (200, 3.0, "unknown")
    assert register(with_base, folder)["iterations"] == 100


def test_final_weights_of_unknown_age_are_not_taken_for_anything(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=1000, log=plain_log({1: 5, 100: 3, 200: 2}, {230: 1.0}))
    view = register(with_base, folder, checkpoint="last")
    assert (view["iterations"], "final_weights_unclear" in codes(view)) == (200, True)


def test_checkpoints_of_an_earlier_run_are_left_alone(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200, 900), iters=200)
    shutil.copy(folder / "0000200_adapters.safetensors", folder / "adapters.safetensors")
    view = register(with_base, folder, checkpoint="last")
    assert (view["iterations"], "stale_checkpoint" in codes(view)) == (200, True)
    with pytest.raises(BadInputError, match="there are 100, 200"):
        register(with_base, folder, checkpoint="900")


def test_numbered_checkpoints_alone_will_do(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=1000, log=plain_log({1: 5, 100: 2, 200: 3}, {230: 1.0}))
    (folder / "adapters.safetensors").unlink()
    assert register(with_base, folder)["iterations"] == 100


def test_a_bad_checkpoint_does_not_get_in(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=200, log=plain_log({1: 5, 100: 1, 200: 2}))
    (folder / "0000100_adapters.safetensors").write_bytes(b"torn")
    with pytest.raises(AdmissionError):
        register(with_base, folder)
    assert register(with_base, folder, checkpoint="last")["iterations"] == 200


def test_a_terabyte_of_nothing_is_refused_at_once(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=200)
    for name in ("adapters.safetensors", "0000200_adapters.safetensors"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 40)
    begun = time.process_time()  # to read it all would take minutes of it, on an idle machine too
    with pytest.raises(AdmissionError):
        register(with_base, folder)
    assert time.process_time() - begun < 20


def test_a_run_that_made_it_worse(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(100, 200), iters=200, log=plain_log({1: 1.0, 100: 3, 200: 2}))
    assert {"worse_than_start"} <= codes(register(with_base, folder))


def test_a_loss_that_is_not_finite_is_said_and_never_the_best(with_base: Registry, run: MakeRun) -> None:
    log = plain_log({1: 5, 100: 2}) + "Iter 200: Val loss nan, Val took 1.000s\n"
    view = register(with_base, run(saved=(100, 200), iters=200, log=log))
    assert (view["iterations"], "loss_not_finite" in codes(view)) == (100, True)


class TestLogs:
    def test_one_can_be_given(self, with_base: Registry, run: MakeRun, tmp_path: Path) -> None:
        (tmp_path / "out.txt").write_text(plain_log(VAL))
        folder = run(saved=(600, 1000))
        assert register(with_base, folder, log=tmp_path / "out.txt")["iterations"] == 600

    def test_several_in_the_folder_are_ambiguous(self, with_base: Registry, run: MakeRun) -> None:
        folder = run(saved=(600, 1000), log=plain_log(VAL))
        (folder / "again.txt").write_text(plain_log(VAL))
        (folder / "notes.txt").write_text("nothing")
        with pytest.raises(BadInputError, match="holds 2 training logs: again.txt, train.log") as caught:
            register(with_base, folder)
        assert f"--log {folder / 'again.txt'}" in str(caught.value.hint)
        assert register(with_base, folder, log=str(folder / "train.log"))["iterations"] == 600

    def test_one_without_a_curve(self, with_base: Registry, run: MakeRun, tmp_path: Path) -> None:
        (tmp_path / "out.txt").write_text("hello")
        with pytest.raises(BadInputError, match="no training curve"):
            register(with_base, run(), log=tmp_path / "out.txt")
        with pytest.raises(MissingFileError):
            register(with_base, run(), log=tmp_path / "nowhere.txt")

    def test_one_of_another_run(self, with_base: Registry, run: MakeRun, tmp_path: Path) -> None:
        (tmp_path / "out.txt").write_text(plain_log(VAL))
        with pytest.raises(BadInputError, match="log of another run"):
            register(with_base, run(iters=500), log=tmp_path / "out.txt")
        view = register(with_base, run(iters=500, log=plain_log(VAL)))
        assert (view["curve"], view["val_loss"], "log_of_another_run" in codes(view)) == ([], None, True)

    def test_it_comes_too_late_for_a_record(self, with_base: Registry, run: MakeRun, tmp_path: Path) -> None:
        (tmp_path / "out.txt").write_text(plain_log(VAL))
        folder = run()
        register(with_base, folder)
        with pytest.raises(AlreadyExistsError, match="without training curve"):
            register(with_base, folder, log=tmp_path / "out.txt")

    def test_too_large(self, with_base: Registry, run: MakeRun, tmp_path: Path) -> None:
        with (tmp_path / "big.log").open("wb") as file:
            file.truncate((1 << 30) + 1)
        with pytest.raises(FormatError, match="larger than 1024 MiB"):
            register(with_base, run(), log=tmp_path / "big.log")


class TestContradictions:
    def conflicts(self, view: dict[str, Any]) -> set[str]:
        return {f["subject"] for f in view["findings"] if f["code"] == "training_conflict"}

    def test_of_the_hand_written_file(self, with_base: Registry, run: MakeRun) -> None:
        folder = run(saved=(600, 1000), log=plain_log(VAL))
        path = folder / "adapter_metadata.json"
        path.write_text(json.dumps({"final_val_loss": 0.9}))
        view = register(with_base, folder, checkpoint="last")
        assert self.conflicts(view) == {"final_val_loss"}
        assert view["val_loss"] == 1.8
        for agreeing in (1.8, 1.2):  # the last, the best
            path.write_text(json.dumps({"final_val_loss": agreeing}))
            assert self.conflicts(register(with_base, folder)) == set()

    def test_of_the_flag_which_wins(self, with_base: Registry, run: MakeRun) -> None:
        view = register(with_base, run(saved=(600, 1000), log=plain_log(VAL)), val_loss=1.0)
        assert (view["val_loss"], self.conflicts(view)) == (1.0, {"val_loss"})

    def test_of_the_learning_rate(self, with_base: Registry, run: MakeRun) -> None:
        log = plain_log(VAL, {10: 3.0})
        view = register(with_base, run(log=log, learning_rate=1e-4))
        assert self.conflicts(view) == {"learning_rate"}
        scheduled = run(log=log, learning_rate=1e-4, lr_schedule={"name": "cosine_decay"})
        assert self.conflicts(register(with_base, scheduled)) == set()


def test_check_says_the_same_and_writes_nothing(with_base: Registry, run: MakeRun) -> None:
    folder = run(saved=(600, 1000), log=plain_log(VAL))
    found = {finding.code for finding in with_base.adapters.check(folder, base="tiny", task="t")}
    assert "best_not_last" in found
    assert with_base.adapters.list() == []
    assert found == codes(register(with_base, folder))


@pytest.mark.parametrize("wanted", ["first", "-1", "1.5", "", "1" * 11, True])
def test_what_is_no_checkpoint_is_refused(with_base: Registry, run: MakeRun, wanted: Any) -> None:
    with pytest.raises(BadInputError, match="best, last or an iteration"):
        register(with_base, run(), checkpoint=wanted)


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
