"""`fusery train` with mlx-lm's real trainer on a tiny model; `register`, `check` and `show` on training runs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from programs import interrupts
from run_folders import make_run, plain_log
from waiting import PATIENCE, wait_until

from fusery.registry.adapters import RUN_RECORD
from fusery.registry.registration.training_record import read_record
from fusery.storage.digest import digest_file

from .conftest import Fusery, require_refusals

TRAIN = [
    "--model", "tiny", "--train", "--data", "data", "--num-layers", "2", "--batch-size", "4", "--iters", "12",
    "--steps-per-eval", "4", "--steps-per-report", "2", "--save-every", "4", "--learning-rate", "1e-4",
    "--adapter-path", "run",
]  # fmt: skip


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "tiny"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)


@pytest.fixture
def folder(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and data."""
    # Without the compiler mlx saves some seconds of g++.
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    (tmp_path / "tiny").symlink_to(small_base)
    (tmp_path / "data").mkdir()
    for name, count in (("train", 24), ("valid", 4)):  # short: the trainer pads to a multiple of 32 tokens
        lines = [json.dumps({"text": f"cat {number} sat on the mat"}) for number in range(count)]
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def ready(fusery: Fusery, folder: Path) -> Fusery:
    assert fusery("base", "add", "tiny", "--name", "tiny").code == 0
    return fusery


@pytest.mark.slow
def test_a_run_from_its_start_to_its_record(ready: Fusery, folder: Path) -> None:
    ran = ready("train", "--base", "tiny", "--task", "cats", "--tag", "by=test", "--", *TRAIN)
    assert ran.code == 0, ran.err
    assert "train_loss" in ran.out  # the trainer's own table
    assert "Registered: cats_v1_" in ran.out
    assert (ran.err.count("\n"), ran.err[:6]) == (1, "Next: ")
    view = ready("show", "cats@1", "--json").json
    record = read_record(folder / "run" / RUN_RECORD)
    losses = record.learned().validations
    assert list(losses) == [4, 8, 12]
    best = min(losses, key=lambda at: losses[at])
    assert (view["iterations"], view["val_loss"]) == (best, losses[best])
    saved = folder / "run" / f"{best:07d}_adapters.safetensors"
    weights = next(file for file in view["files"] if file["path"] == "adapters.safetensors")
    assert weights["sha256"] == digest_file(saved)[0]
    training = view["training_run"]
    assert (training["state"], training["source"], training["chosen"]) == ("finished", "record", "best")
    assert training["arguments"] == json.loads((folder / "run" / "adapter_config.json").read_text())
    assert training["versions"]["mlx-lm"]
    assert (view["examples"], view["dataset"], view["tags"]) == (24, "data", {"by": "test"})
    assert view["dataset_digest"] == record.dataset.digest if record.dataset else False
    assert view["findings"] == []
    shown = ready("show", "cats@1").out
    assert "▁" in shown
    assert f"checkpoint      {best} (best)" in shown


def test_short_runs(ready: Fusery, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.tuner import trainer

    short = [*TRAIN, "--iters", "2", "--steps-per-eval", "1", "--save-every", "1", "--val-batches", "1"]
    ran = ready("train", "--base", "tiny", "--task", "cats", "--", *short)
    assert (ran.code, ran.err.count("\n"), ran.err[:6]) == (0, 1, "Next: ")
    assert "Registered: cats_v1_" in ran.out
    assert ready("show", "cats@1", "--json").json["training_run"]["state"] == "finished"
    ran = ready("train", "--", *short, "--adapter-path", "again")
    assert (ran.code, "train_loss" in ran.out, "again --base NAME" in ran.err) == (0, True, True)
    ran = ready("train", "--json", "--", *short, "--adapter-path", "quiet")
    assert (ran.json["state"], ran.json["registered"], "train_loss" in ran.err) == ("finished", None, True)
    assert ran.json["folder"] == str(folder / "quiet")
    evaluate, evaluated = trainer.evaluate, iter((True, False, False))

    def interrupted(*words: Any, **named: Any) -> Any:
        if not next(evaluated):
            raise KeyboardInterrupt
        return evaluate(*words, **named)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    ran = ready("train", "--", *short, "--adapter-path", "half")
    assert (ran.code, "half --base NAME" in ran.err) == (130, True)
    ran = ready("train", "--", *short, "--adapter-path", "none")
    assert (ran.code, "none --base NAME" in ran.err) == (130, False), "nothing was saved"

    def dropped(*words: Any, **named: Any) -> Any:
        with suppress(KeyboardInterrupt):  # as mlx does while it reads an array of NumPy
            signal.raise_signal(signal.SIGINT)
        return evaluate(*words, **named)

    monkeypatch.setattr(trainer, "evaluate", dropped)
    with interrupts():
        ran = ready("train", "--", *short, "--adapter-path", "late")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (ran.code, read_record(folder / "late" / RUN_RECORD).state) == (130, "stopped")


def test_refusals_come_before_the_training(ready: Fusery, folder: Path) -> None:
    named = "--base tiny --task t"
    for options, changed, said in (
        ("--base nowhere --task t", "", "'nowhere'"),
        ("--base tiny", "", "--task course_rec"),
        (f"{named} --checkpoint first", "", "best, last or an iteration"),
        (named, "--model org/other", "--model org/other"),
        (named, "--data nowhere", "nowhere"),
        ("", "--data ./no/where", "./no/where"),
        (f"--qat {named}", "", "quantised format"),
        (f"--qat {named}", "--fine-tune-type dora", "LoRA"),
        (f"--qat --qa-lora {named}", "", "give one of them"),
        (f"--qa-lora {named} --trained-on other", "", "leave out --trained-on"),
        (f"--qat {named}", "--model other", "leave out --model"),
    ):
        ran = ready("train", *options.split(), "--", *TRAIN, *changed.split())
        assert (ran.code, said in ran.err) == (2, True), (options, changed, ran.err)
        assert "--qa" in options or ran.out == "", "it is refused before the model is loaded"
    for words, said in ((f"--qat {named}", "nothing is to be trained"), ("--qat", "give --base NAME")):
        trained = [word for word in without_model(TRAIN) if word != "--train" or "--base" not in words]
        ran = ready("train", *words.split(), "--", *trained)
        assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not (folder / "run").exists()
    assert ready("train", "--", "--help").code == 0
    ran = ready("train", "--", "--no-such-option")
    assert (ran.code, "--no-such-option" in ran.err) == (2, True)


def without_model(words: list[str]) -> list[str]:
    return words[: words.index("--model")] + words[words.index("--model") + 2 :]


@pytest.mark.slow
def test_a_trainer_that_raises(ready: Fusery, folder: Path) -> None:
    ran = ready("train", "--", *TRAIN, "--batch-size", "25")
    assert ran.code == 1
    assert "ValueError" in ran.err and "batch_size=25" in ran.err
    assert "Traceback" not in ran.err
    assert read_record(folder / "run" / RUN_RECORD).state == "stopped"


def loss_of(model: Path, data: Path, adapter: Path | None = None, *, through: bool = False) -> float:
    """Return a model's loss on data, as mlx-lm's trainer validates."""
    from mlx_lm.tuner.datasets import CacheDataset, load_local_dataset
    from mlx_lm.tuner.trainer import evaluate
    from mlx_lm.utils import load

    from fusery.research.quantized_training import make_layers

    loaded, tokenizer = load(str(model), adapter_path=str(adapter) if adapter else None)[:2]
    if through:
        asked = argparse.Namespace(seed=0, num_layers=0, lora_parameters={})
        make_layers(asked, loaded, lambda *_: None)
    valid = load_local_dataset(data, tokenizer, argparse.Namespace(mask_prompt=False))[1]
    return float(evaluate(loaded, CacheDataset(valid), 4, -1, 2048))


def four_bits(ready: Fusery, folder: Path) -> Path:
    """Make a quantised base, and add it as `four`."""
    # mlx multiplies by quantised weights slowly on a processor, and a layer that is not trained is wanted, too.
    made = tiny_models.make_base(folder / "four", bits=4, layers=3, hidden=64, intermediate=128)
    assert ready("base", "add", "four", "--name", "four").code == 0
    return made


@pytest.mark.slow
def test_what_was_trained_quantised_is_what_the_fused_model_gives(ready: Fusery, folder: Path) -> None:
    four = four_bits(ready, folder)
    run, data = folder / "run", folder / "data"
    words = ("--iters", "6", "--val-batches", "-1", "--learning-rate", "1e-3")
    ran = ready("train", "--qat", "--base", "four", "--task", "cats", "--", *without_model(TRAIN), *words)
    assert ran.code == 0, ran.err
    said = json.loads((run / "adapter_config.json").read_text())["quantization_aware"]
    assert said == {"bits": 4, "group_size": 64}
    assert read_record(run / RUN_RECORD).arguments["quantization_aware"] == said
    saved = {path.name: digest_file(path)[0] for path in run.glob("*adapters.safetensors")}
    bound = json.loads((run / "adapter_config.json").read_text())["quantization_aware_weights"]
    assert saved and set(bound) == set(saved.values())
    shown = ready("show", "cats@1", "--json").json
    assert [finding["code"] for finding in shown["findings"]] == ["quantization_aware"]
    made = ready("fuse", "cats@1", "--json").json
    assert made["recipe"]["precision"] == "keep", "auto"
    assert (made["fidelity"]["retained"], made["fidelity"]["verdict"]) == (1.0, "PASS")
    registered = Path(ready("get", "cats@1", "-q").out.strip())
    trained = loss_of(four, data, registered, through=True)
    assert trained < loss_of(four, data) - 0.1, "it learned something"
    assert loss_of(Path(made["path"]), data) == trained
    assert abs(loss_of(four, data, registered) - trained) > 1e-4, (
        "base + adapter, unrounded, is something else"
    )
    # Repeated by its own configuration, as usual: what that says of the quantiser is not true of this run.
    repeated = ("--config", str(run / "adapter_config.json"), "--adapter-path", "again", "--iters", "2")
    ran = ready("train", "--base", "four", "--task", "cats", "-q", "--", *repeated, "--seed", "5")
    assert ran.code == 0, ran.err
    assert "quantization_aware" not in json.loads((folder / "again" / "adapter_config.json").read_text())
    assert ready("show", "cats@2", "--json").json["findings"] == []
    # And by the trainer itself, which takes the entries over: those weights are others.
    shutil.copytree(folder / "again", folder / "plain")
    shutil.copy(run / "adapter_config.json", folder / "plain")
    refused = ready("register", "plain", "--base", "four", "--task", "plain")
    assert (refused.code, "quantization_aware_invalid" in refused.err) == (2, True), refused.err


@contextmanager
def started(folder: Path, *words: str, deaf: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Train in a process of its own, of which stderr goes to a file."""
    words = ("train", *words, "--", *TRAIN, "--iters", "100000")
    code = f"import sys; sys.argv[1:] = {words!r}; from fusery.cli.main import main; main()"
    environment = {**os.environ, "FUSERY_REGISTRY": str(folder / "home"), "OPENBLAS_NUM_THREADS": "1"}
    silent, command = subprocess.DEVNULL, [sys.executable, "-P", "-c", code]
    how = signal.SIG_IGN if deaf else signal.default_int_handler
    with (folder / "said").open("wb") as said, interrupts(how):
        process = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=said, env=environment)
    with process:
        try:
            yield process
            process.wait(PATIENCE)
        finally:
            process.kill()


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes], number: int) -> None:
    wanted = folder / "run" / f"{number + 4:07d}_adapters.safetensors"
    wait_until(lambda: wanted.exists() or process.poll() is not None, seconds=600)
    assert process.poll() is None, (folder / "said").read_text()


def require_registered(ready: Fusery, run: str, state: str) -> None:
    """Require that a run that was ended can be registered with its checkpoint 4."""
    ran = ready("register", run, "--base", "tiny", "--task", "t", "--checkpoint", "4", "--json")
    assert ran.code == 0, ran.err
    view: dict[str, Any] = ready("show", "t@1", "--json").json
    losses = read_record(Path(run, RUN_RECORD)).learned().validations
    assert (view["iterations"], view["val_loss"]) == (4, losses[4])
    assert view["training_run"]["state"] == state


@pytest.mark.slow
@pytest.mark.timing
def test_a_run_that_is_interrupted_can_be_registered(ready: Fusery, folder: Path) -> None:
    with started(folder, "--base", "tiny", "--task", "t") as process:
        wait_for_checkpoint(folder, process, 4)
        process.send_signal(signal.SIGINT)
    said = (folder / "said").read_text()
    assert process.returncode == 130, said
    assert "Traceback" not in said and "Next: fusery register run" in said
    assert read_record(folder / "run" / RUN_RECORD).state == "stopped"
    assert ready("list", "--json").json == []
    require_registered(ready, "run", "stopped")


@pytest.mark.slow
@pytest.mark.timing
def test_a_run_in_the_background_survives_ctrl_c_and_ends_at_sigterm(ready: Fusery, folder: Path) -> None:
    """A copy of its folder, made while it is stopped, is as SIGKILL would leave it, and can be registered."""
    with started(folder, deaf=True) as process:
        wait_for_checkpoint(folder, process, 4)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGSTOP)
        shutil.copytree(folder / "run", folder / "killed")
        process.send_signal(signal.SIGCONT)
        wait_for_checkpoint(folder, process, 12)
        process.send_signal(signal.SIGTERM)
    said = (folder / "said").read_text()
    assert process.returncode == 143, said
    assert said.endswith("Terminated.\n")
    assert "Traceback" not in said
    assert read_record(folder / "run" / RUN_RECORD).state == "stopped"
    assert read_record(folder / "killed" / RUN_RECORD).state == "running"
    require_registered(ready, "killed", "unknown")


VAL = {1: 5.0, 200: 2.0, 400: 1.2, 600: 1.5}
WORDS = ("--base", "tiny", "--task", "t")


@pytest.fixture
def finished(stocked: Fusery, tiny_base: Path, tmp_path: Path) -> Path:
    return make_run(
        tmp_path / "run", tiny_base, saved=(200, 400, 600), iters=600, log=plain_log(VAL, {600: 1.0})
    )


def test_the_best_with_a_word_when_it_is_not_the_last(stocked: Fusery, finished: Path) -> None:
    ran = stocked("register", finished, *WORDS)
    assert ran.code == 0
    assert "checkpoint 400 has the lowest loss, 1.200; the last, 600, has 1.500" in ran.out
    assert stocked("register", finished, *WORDS, "--checkpoint", "last").out.startswith("Registered: t_v2_")
    assert stocked("check", finished, *WORDS, "--checkpoint", "200", "--json").json["findings"] == []


def test_refusals_of_runs(stocked: Fusery, finished: Path, tmp_path: Path) -> None:
    (finished / "train.log").rename(tmp_path / "elsewhere.log")
    register = f"register {finished} {' '.join(WORDS)}"
    done = stocked(*register.split(), "--log", "elsewhere.log", "--json")
    assert done.json["iterations"] == 400
    (tmp_path / "taken.png").write_bytes(b"mine")
    require_refusals(
        stocked,
        (f"{register} --checkpoint 500", "200, 400, 600"),
        (f"{register} --log missing.log", "missing.log"),
        ("show course_rec@1 --plot x.png", "no training curve"),
        ("show t@1 --plot x.gif", ".png or .svg"),
        ("show t@1 --force", "--force goes with --plot"),
        ("show t@1 --plot taken.png", "taken.png"),
    )
    assert (tmp_path / "taken.png").read_bytes() == b"mine"
    assert not (tmp_path / "x.png").exists()
    view = stocked("show", "course_rec@1", "--json").json
    assert (view["training_run"], view["curve"], view["dataset_digest"]) == (None, [], None)
