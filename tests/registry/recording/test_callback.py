"""The record that a run keeps of itself."""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import make_run, plain_log

from fusery.registry import RecordRun, Registry
from fusery.registry.adapters import RUN_RECORD, STATE
from fusery.registry.recording import trainer
from fusery.registry.registration.training_record import begin_record, read_record
from fusery.storage.errors import FormatError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}')
    (folder / "valid.jsonl").write_text('{"text": "d"}\n')
    (folder / "other.txt").write_text("not read")
    return folder


def report(run: RecordRun, val: dict[int, float], train: dict[int, float], *, counted_from: int = 0) -> None:
    """Report as mlx-lm's trainer does: it validates before a step, and since 0.25 gives the number of finished steps."""
    for at in sorted({*val, *train}):
        if at in val:
            run.on_val_loss_report({"iteration": at - 1 + counted_from, "val_loss": val[at], "val_time": 1.0})
        if at in train:
            run.on_train_loss_report(
                {
                    "iteration": at,
                    "train_loss": train[at],
                    "learning_rate": 1e-5,
                    "iterations_per_second": 1.0,
                    "tokens_per_second": 100.0,
                    "trained_tokens": 100 * at,
                    "peak_memory": 1.5,
                }
            )


def test_numbers_may_be_arrays_of_one_element(tmp_path: Path) -> None:
    run = RecordRun(tmp_path / "run")
    for at, loss in enumerate((3.0, np.float32(3), np.array(3.0), np.array([3.0]), mx.array([3.0])), start=1):
        run.on_train_loss_report({"iteration": at, "train_loss": loss})
    assert [point.train_loss for point in run.record.curve] == [3.0] * 5


def test_it_is_written_while_the_run_goes_on(tmp_path: Path, data: Path) -> None:
    run = RecordRun(tmp_path / "run", arguments={"iters": 300, "data": str(data)})
    path = tmp_path / "run" / RUN_RECORD
    assert read_record(path).state == "running"
    report(run, {1: 5.0, 100: 2.0}, {10: 4.0})
    seen = read_record(path)  # the file that a killed run would leave
    assert (seen.state, seen.learned().validations) == ("running", {100: 2.0})
    assert seen.dataset and seen.dataset.examples == 3
    assert [file.path for file in seen.dataset.files] == ["train.jsonl", "valid.jsonl"]
    assert seen.machine and seen.machine.cpus and seen.machine.memory
    assert seen.versions.keys() >= {"python", "mlx", "mlx-lm", "fusery"}
    assert seen.peak_memory in (None, 1_500_000_000)
    run.finish()
    assert read_record(path).state == "finished"
    assert [file.name for file in (tmp_path / "run").iterdir()] == [RUN_RECORD]


def test_iterations_are_those_of_the_trainer_s_output(tmp_path: Path) -> None:
    for counted_from in (0, 1):  # since mlx-lm 0.25, and before
        folder = tmp_path / str(counted_from)
        with RecordRun(folder) as run:
            report(run, {1: 5.0, 200: 2.0, 300: 1.0}, {10: 4.0}, counted_from=counted_from)
        curve = read_record(folder / RUN_RECORD).learned()
        assert (curve.start_loss, curve.validations) == (5.0, {200: 2.0, 300: 1.0})
        assert curve.points[1].train_loss == 4.0


def test_a_run_that_ends_early_says_so(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), RecordRun(tmp_path / error.__name__) as run:
            report(run, {1: 5.0}, {})
            raise error
        assert read_record(tmp_path / error.__name__ / RUN_RECORD).state == "stopped"


def test_a_very_long_run_is_thinned_and_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.registry.recording import callback

    monkeypatch.setattr(callback, "MAX_POINTS", 50)
    train = dict.fromkeys(range(1, 1001), 1.0)
    with RecordRun(tmp_path) as run:
        report(run, {1: 5.0, **dict.fromkeys(range(100, 1001, 100), 2.0)}, train)
    curve = read_record(tmp_path / RUN_RECORD).learned()
    assert list(curve.validations) == list(range(100, 1001, 100))
    assert len(curve.points) <= 51
    assert curve.last_iteration == 1000


def test_losses_that_are_not_finite(tmp_path: Path) -> None:
    with RecordRun(tmp_path) as run:
        report(run, {1: 5.0, 100: float("nan")}, {100: float("inf"), 110: 1.0})
    curve = read_record(tmp_path / RUN_RECORD).learned()
    assert (curve.not_finite, curve.validations) == ((100,), {})
    assert curve.points[-1].train_loss == 1.0


@dataclass
class Arguments:
    iters: int = 3
    path: Path = Path("a")
    rate: float = float("inf")


def test_arguments_of_any_kind(tmp_path: Path) -> None:
    for arguments in (Arguments(), vars(Arguments()), argparse.Namespace(**vars(Arguments()))):
        RecordRun(tmp_path, arguments=arguments).finish()
        found = read_record(tmp_path / RUN_RECORD).arguments
        assert found == {"iters": 3, "path": "a", "rate": "Infinity"}


def test_a_record_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    trainer_callback = pytest.importorskip("fusery.registry.recording.trainer_callback")
    callback = trainer_callback.FuseryCallback(task="cats")
    callback._record = begin_record({}, None)
    callback._write(tmp_path)
    assert read_record(tmp_path / RUN_RECORD).seconds is not None
    (tmp_path / "taken").write_text("a file")
    with pytest.warns(UserWarning, match="could not write its record of this run"):
        callback._write(tmp_path / "taken")


def test_the_format_of_an_earlier_run_is_no_argument() -> None:
    received: list[dict[str, Any]] = []
    lora = types.ModuleType("lora")
    lora.run = run = lambda args: received.append(dict(vars(args)))  # type: ignore[attr-defined]
    lora.load = lora.load_dataset = lora.train_model = None  # type: ignore[attr-defined]
    arguments = argparse.Namespace(iters=1, quantization_aware={"bits": 4}, use_qalora=True, data="x")

    def ready(args: Any) -> None:
        received.append(dict(vars(args)))

    with trainer._recorded(lora, ready, [], None, None):  # type: ignore[arg-type]
        lora.run(arguments)
    assert received == [{"iters": 1, "data": "x"}] * 2
    assert lora.run is run


class Examples(types.SimpleNamespace):
    """A data set of two examples."""

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(("step", "state"), [(4, "finished"), (3, "stopped")])
def test_a_run_of_transformers_is_recorded(tmp_path: Path, step: int, state: str) -> None:
    callback = pytest.importorskip("fusery.registry.recording.trainer_callback").FuseryCallback(task="cats")
    from transformers import TrainerState

    args: Any = types.SimpleNamespace(output_dir=str(tmp_path), to_dict=lambda: {"max_steps": 4})
    now = TrainerState(is_world_process_zero=False, max_steps=4, global_step=step)
    model = types.SimpleNamespace(save_pretrained=lambda place: Path(place).mkdir())

    def begin(**facts: Any) -> None:
        data = types.SimpleNamespace(dataset=Examples(**facts))
        callback.on_train_begin(args, now, None, train_dataloader=data)

    def dataset() -> tuple[str | None, str | None]:
        callback.on_save(args, now, None)
        record = read_record(tmp_path / RUN_RECORD)
        assert (record.state, record.arguments) == ("running", {"max_steps": 4})
        assert record.dataset is not None and record.dataset.examples == 2
        return record.dataset.name, record.dataset.fingerprint

    begin()
    callback.on_train_end(args, now, None, model=model)
    assert list(tmp_path.iterdir()) == []  # another process records
    now.is_world_process_zero = True
    easy = types.SimpleNamespace(dataset_name=None, config_name="easy")
    named = types.SimpleNamespace(dataset_name="questions", config_name="default")
    begin(info=easy, split="train")
    with pytest.warns(UserWarning, match="registered nothing of this run"):  # there are no weights
        callback.on_train_end(args, now, None, model=model)
    place = tmp_path / f"checkpoint-{step}"
    assert {path.name for path in place.iterdir()} == {STATE, RUN_RECORD}
    assert (read_record(place / RUN_RECORD).state, callback.adapter) == (state, None)
    assert callback.error is not None
    for facts, expected in (
        ({"info": named, "split": "train", "_fingerprint": "0a"}, ("questions:train", "0a")),
        ({"info": easy}, ("easy", None)),
        ({"split": "train", "_fingerprint": 7}, (None, None)),
    ):  # fmt: skip
        begin(**facts)
        assert dataset() == expected
    args.to_dict = None
    with pytest.warns(UserWarning, match="does not record this run"):
        callback.on_train_begin(args, now, None)


def test_another_callback_hears_everything(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Other:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            heard.append(info["iteration"])

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            heard.append(-info["iteration"])

    report(RecordRun(tmp_path, wrapped=Other()), {1: 5.0, 100: 1.0}, {10: 2.0})
    assert heard == [0, 10, -99]


def test_nothing_of_the_machine_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_token")
    RecordRun(tmp_path, arguments={"iters": 1}).finish()
    record = json.loads((tmp_path / RUN_RECORD).read_text())
    record.pop("git")
    text = json.dumps(record)
    assert "hf_secret" not in text
    assert socket.gethostname() not in record["machine"].values()
    assert getpass.getuser() not in (*record["machine"].values(), *record["versions"].values())


def test_the_same_data_have_the_same_digest_wherever_they_lie(tmp_path: Path, data: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("train.jsonl", "valid.jsonl"):
        (copy / name).write_bytes((data / name).read_bytes())

    def digest(folder: Path) -> str | None:
        recorded = RecordRun(tmp_path / "run", data=folder).record.dataset
        return recorded.digest if recorded else None

    assert digest(data) == digest(copy) is not None
    (copy / "valid.jsonl").write_text("{}\n")
    assert digest(copy) != digest(data)


class TestRegistering:
    @pytest.fixture
    def with_base(self, registry: Registry, tiny_base: Path) -> Registry:
        registry.bases.add(tiny_base, name="tiny")
        return registry

    def recorded(self, folder: Path, base: Path, data: Path) -> RecordRun:
        make_run(folder, base, saved=(100, 200, 300), iters=300, data=str(data))
        run = RecordRun(folder, arguments={"iters": 300, "data": str(data)})
        report(run, {1: 5.0, 100: 2.0, 200: 1.23456, 300: 3.0}, {100: 4.0, 200: 1.0, 300: 0.5})
        return run

    def test_run_is_on_record(self, with_base: Registry, tiny_base: Path, tmp_path: Path, data: Path) -> None:
        run = self.recorded(tmp_path / "run", tiny_base, data)
        made = run.register(base="tiny", task="t", registry=with_base, dataset="letters")
        view = with_base.adapters.show(made["name"])
        assert (view["val_loss"], view["iterations"]) == (1.23456, 200)
        assert (view["dataset"], view["examples"]) == ("letters", 3)
        training = view["training_run"]
        assert (training["state"], training["source"]) == ("finished", "record")
        assert view["dataset_digest"] == run.record.dataset.digest if run.record.dataset else False
        assert training["machine"]["cpus"] == run.record.machine.cpus if run.record.machine else False
        assert training["arguments"]["iters"] == 300
        assert training["seconds"] == run.record.seconds
        assert (training["trained_tokens"], training["peak_memory"]) == (30_000, 1_500_000_000)
        assert [file["examples"] for file in training["dataset_files"]] == [3, 1]
        assert view["date"] == f"{run.record.started():%Y%m%d}"
        assert with_base.upkeep.audit().ok

    def test_conflicts(self, with_base: Registry, tiny_base: Path, tmp_path: Path, data: Path) -> None:
        folder = self.recorded(tmp_path / "run", tiny_base, data).folder
        (folder / "train.log").write_text(plain_log({1: 5.0, 200: 1.235}))
        first = with_base.adapters.check(folder, base="tiny", task="t")
        assert not any(finding.code == "training_conflict" for finding in first)
        (folder / "train.log").write_text(plain_log({1: 5.0, 200: 1.3}))
        second = with_base.adapters.check(folder, base="tiny", task="t")
        assert [finding.subject for finding in second if finding.code == "training_conflict"] == ["train.log"]

    def test_a_record_that_is_none(self, with_base: Registry, tiny_base: Path, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", tiny_base)
        for text in ("", "[]", '{"format": 2}', '{"started_at": "yesterday"}', "[" * 9999):
            (folder / RUN_RECORD).write_text(text)
            found = with_base.adapters.check(folder, base="tiny", task="t")
            assert "record_unusable" in {finding.code for finding in found}
        view = with_base.adapters.register(folder, base="tiny", task="t")
        assert with_base.adapters.show(view["name"])["training_run"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)
GOOD = (
    {"format": 1, "started_at": "2026-01-15T00:00:00Z"}
    | dict.fromkeys(("dataset", "machine", "git"))
    | {"curve": []}
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*GOOD, "state", "seconds", "versions", "not_finite"]), JSON))
def test_a_hostile_record_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, said: Any) -> None:
    path = tmp_path_factory.getbasetemp() / RUN_RECORD
    path.write_text(json.dumps({**GOOD, **said}))
    try:
        read_record(path).learned()
    except FormatError as error:
        assert len(error.message) < 1000
