"""The parts of a registration by themselves: uploads, records of runs, data folders, and adapters of another registry."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
from run_folders import make_run, plain_log
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.admission.submission import Submission
from fusery.registry.errors import BadInputError, BlobsMissingError
from fusery.registry.names import AdapterName
from fusery.registry.records.adapter_details import CurvePoint, Measured
from fusery.registry.records.references import resolve_adapter
from fusery.registry.registration import recorded, sources, training_record
from fusery.registry.registration.register import data_source, require_data, require_registrable
from fusery.registry.registration.training_curve import curve_line, draw_curves
from fusery.registry.registration.training_record import RecordedStart, begin_record, read_data, read_record
from fusery.storage.digest import digest_file
from fusery.storage.errors import FormatError, FuseryError, MissingFileError, OutOfSpaceError

MakeAdapter = Callable[..., Path]


def test_files_that_a_client_has_uploaded(
    with_base: Registry, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run", base, saved=(100, 200), iters=200, log=plain_log({1: 5.0, 200: 2.0}))
    (folder / "notes.md").write_text("not wanted")
    found = sources.files_to_send(folder, None)
    assert "adapters.safetensors" in found and "notes.md" not in found
    given = sources.files_to_send(folder, tmp_path / "train.log")
    assert given.keys() - found.keys() == {"log/train.log"}
    with pytest.raises(MissingFileError):
        sources.files_to_send(tmp_path / "nowhere", None)
    with_base.adapters.register(folder, base="tiny", task="t", checkpoint="last")
    names = ("adapters.safetensors", "adapter_config.json")
    stored = {name: str(digest_file(folder / name)[0]) for name in names}
    weights = stored["adapters.safetensors"]
    files = {**stored, "0000200_adapters.safetensors": weights, "log/x.log": weights}
    with sources.uploaded(with_base.workspace, "run", files) as (place, log):
        assert place.name == "run" and {path.name for path in place.iterdir()} == {*files} - {"log/x.log"}
        assert log is not None and digest_file(log)[0] == weights
    assert not place.exists()
    with sources.uploaded(with_base.workspace, "run", stored) as (_, log):
        assert log is None
    missing = sources.uploaded(with_base.workspace, "run", {"adapters.safetensors": "0" * 64})
    with pytest.raises(BlobsMissingError), missing:
        pass
    for name in ("notes.md", "log/a/b"):
        with pytest.raises(BadInputError), sources.uploaded(with_base.workspace, "run", {name: weights}):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
        with pytest.raises(OutOfSpaceError), sources.uploaded(with_base.workspace, "run", stored):
            pass
    monkeypatch.setattr(sources, "_MOST_SENT", 2)
    monkeypatch.setattr(sources, "_MOST_SENT_BYTES", 10)
    for name, wrong in (
        ("run", stored), ("a/b", {}), ("..", {}), ("n" * 201, {}), ("run", {**stored, "x.log": weights}),
        ("run", {"notes.md": weights}), ("run", {"log/a/b": weights}), ("run", {"adapters.safetensors": "0"}),
    ):  # fmt: skip
        with pytest.raises(BadInputError), sources.uploaded(with_base.workspace, name, wrong):
            pass


def test_what_a_run_records_of_itself(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert read_data(data) is None
    data.mkdir()
    for name, count in (("train.jsonl", 3), ("valid.jsonl", 1), ("other.jsonl", 9)):
        (data / name).write_text("{}\n" * count)
    recorded = read_data(data)
    assert recorded is not None and recorded.examples == 3
    assert [(file.path, file.examples) for file in recorded.files] == [("train.jsonl", 3), ("valid.jsonl", 1)]
    start = RecordedStart(path="adapters.safetensors", sha256="0" * 64)
    record = begin_record(
        {"iters": 5}, recorded, resumed=start, packages=["numpy", "nothing"], folder=tmp_path
    )
    assert record.versions.keys() == {"python", "numpy", "fusery"} and record.git is None
    assert record.machine is not None and record.machine.cpus and record.machine.processor
    training_record.write_record(tmp_path, record)
    assert read_record(tmp_path / "fusery_run.json") == record
    for document in (
        {"started_at": "soon"},
        {"arguments": {"a": "a\0b"}},
        {"started_at": "2026-01-15", "format": 2},
    ):
        (tmp_path / "fusery_run.json").write_text(json.dumps(document))
        with pytest.raises(FormatError, match="fusery_run.json"):
            read_record(tmp_path / "fusery_run.json")


def test_findings_about_a_run_of_another_registry(base: Path, tmp_path: Path) -> None:
    folder = read_adapter_folder(make_run(tmp_path / "run", base))

    def codes(best: float | None, last: float | None, checkpoint: int, chosen: str) -> set[str]:
        training: Any = SimpleNamespace(
            best=Measured(iteration=100, val_loss=best), last=Measured(iteration=200, val_loss=last),
            checkpoint=checkpoint, source="record", state="finished", chosen=chosen,
        )  # fmt: skip
        document: Any = SimpleNamespace(name="a_v1", training_run=training, curve=(), findings=())
        submission = Submission(base="tiny", task="t")
        return {finding.code for finding in recorded.training_findings(document, folder, submission)}

    assert "best_not_last" in codes(1.0, 2.0, 100, "best")
    assert codes(None, None, 200, "last") == codes(1.0, None, 100, "best") == set()


def test_a_moment_without_a_time_zone_is_in_utc() -> None:
    for text, hour in (("12:00:00", 12), ("12:00:00+02:00", 10), ("12:00:00+00:00", 12)):
        record = training_record.RunRecord.model_validate(
            {"started_at": f"2026-01-15T{text}", "state": "finished"}
        )
        assert record.started() == datetime(2026, 1, 15, hour, tzinfo=UTC)


def test_the_adapter_with_these_weights(with_base: Registry, base: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tiny_models.make_adapter(tmp_path / str(seed), base, seed=seed)
        with_base.adapters.register(folder, base="tiny", task="t", date="20260101")
    with with_base.workspace.database.read() as session:
        files = {file.path: file.sha256 for file in resolve_adapter(session, "t@2").manifest.files}
        row = recorded.adapter_with_weights(session, files["adapters.safetensors"])
        assert row is not None and row.id == 2
        assert recorded.adapter_with_weights(session, files["adapter_config.json"]) is None


def test_data_to_train_on(tmp_path: Path) -> None:
    def ask(data: object, train: bool = True, hub: Any = None) -> None:
        require_data(SimpleNamespace(data=data and str(data), train=train, hf_dataset=hub))

    assert data_source(SimpleNamespace(data="x", hf_dataset=[{"path": "org/a"}, {}])) == "org/a"
    assert data_source(SimpleNamespace(data="x", hf_dataset={"path": "org/a"})) == "org/a"
    assert data_source(SimpleNamespace(data="")) is None
    (tmp_path / "train.jsonl").touch()
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadInputError):
            ask(wrong)
        ask(wrong, train=False)
        ask(wrong, hub={"path": "org/a"})
    (tmp_path / "train.jsonl").write_text("{}\n")
    for good in (tmp_path, "org/data", None):
        ask(good)


def test_a_run_that_could_not_be_registered_does_not_begin(
    with_base: Registry, base: Path, tmp_path: Path
) -> None:
    folder, workspace = make_run(tmp_path / "run", base), with_base.workspace
    name = AdapterName.parse(with_base.adapters.register(folder, base="tiny", task="t")["name"])

    def ask(model: str = "tiny", iterations: int = 5, same: bool = False, **declared: Any) -> None:
        submission = Submission(base="tiny", **{"task": "t", **declared})
        require_registrable(workspace, submission, tmp_path, model=model, iterations=iterations, same=same)

    ask()
    ask(version=name.version + 1)
    ask(task="new", version=name.version)
    for wrong in ({"version": name.version}, {"iterations": -1}, {"task": None}):
        with pytest.raises(FuseryError):
            ask(**wrong)
    for same, hint in ((True, "leave out --model"), (False, "--trained-on")):
        with pytest.raises(BadInputError) as caught:
            ask(model="org/another", same=same)
        assert hint in str(caught.value.hint)


def points(*losses: tuple[float | None, float | None]) -> list[CurvePoint]:
    values = ((at, *pair, None) for at, pair in enumerate(losses, 1))
    names = ("iteration", "train_loss", "val_loss", "learning_rate")
    return [CurvePoint(**dict(zip(names, value, strict=True))) for value in values]


def test_a_curve_in_a_line_and_in_a_picture(tmp_path: Path) -> None:
    assert curve_line(points((3.0, 5.0), (2.0, 4.0))).endswith("5.000 to 4.000 (validation, 2 points)")
    assert curve_line(points((3.0, 5.0), (2.0, None))).endswith("3.000 to 2.000 (training, 2 points)")
    assert curve_line(points((3.0, 5.0))) == curve_line([]) == ""
    with pytest.raises(BadInputError):
        draw_curves({"a": []}, tmp_path / "curve.svg", force=False)
    place = draw_curves({"a": points((3.0, 5.0), (2.0, 4.0)), "b": []}, tmp_path / "curve.svg", force=False)
    assert place.read_text(encoding="utf-8").endswith("</svg>\n")


def test_an_adapter_of_another_registry_has_its_run(with_base: Registry, base: Path, tmp_path: Path) -> None:
    log = plain_log({1: 5.0, 100: 1.0, 200: 2.0}, {10: 3.0})
    folder = make_run(tmp_path / "run", base, saved=(100, 200), iters=200, log=log)
    theirs = with_base.adapters.register(folder, base="tiny", task="t", dataset="a", tags={"x": "1"}, alpha=7)
    with_base.adapters.amend("t@1", dataset="b", reason="typo")
    with_base.adapters.amend("t@1", tags={"x": "2"})
    with Registry(open_workspace(tmp_path / "ours")) as ours:
        ours.init()
        ours.exchange.pull("t@1", with_base.workspace.settings.home)
        pulled, own = ours.adapters.show("t@1"), with_base.adapters.show("t@1")
        facts = "digest val_loss dataset tags alpha iterations training_run curve amendments"
        for name in facts.split():
            assert pulled[name] == own[name], name
        assert {f["code"] for f in pulled["findings"]} == {f["code"] for f in theirs["findings"]}
        assert ours.upkeep.audit().ok


def test_bases_that_cannot_be_named(
    with_base: Registry, base: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = shutil.copytree(make_adapter(), tmp_path / "copy")

    def refused(hint: str, **facts: Any) -> None:
        with pytest.raises(BadInputError) as caught:
            with_base.adapters.check(folder, task="t", **facts)
        assert hint in str(caught.value.hint)

    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "model": "org/stranger"}))
    refused("there are: tiny")
    refused("give --base", trained_on="tiny")
    (folder / "adapter_config.json").write_text("{")
    refused("lists all that is wrong")
    with pytest.raises(BadInputError, match="the base of copy is unknown"):
        with_base.adapters.check(folder, task="t")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    (folder / "adapters.safetensors").rename(folder / "adapter_model.safetensors")
    refused("save_as_lora")
    for wrong in ({"revision": "main"}, {"reference": True, "name": "a b"}):
        with pytest.raises(BadInputError):
            with_base.bases.add(base, **wrong)
