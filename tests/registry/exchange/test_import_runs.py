"""Importing the runs of a tracker: which files are an adapter, what is recorded of a run, and plugins with trackers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from plugin_packages import write_package

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.import_runs import ImportedRun, import_runs, source_names, tracked_runs
from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun, is_inside, tracked_adapters
from fusery.registry.registration.training_record import RunRecord, write_record
from fusery.storage.plugins import PluginError

CONFIG, WEIGHTS, PEFT = "adapter_config.json", "adapters.safetensors", "adapter_model.safetensors"
RECORD = RunRecord(started_at=datetime(2026, 1, 5, tzinfo=UTC), state="finished", seconds=9)


def listed(*paths: str) -> list[tuple[str, dict[str, str]]]:
    run = TrackedRun("r", "r", "p", UNKNOWN, {}, dict.fromkeys(paths, 1), shutil.copyfile)
    return [(adapter.path, adapter.files) for adapter in tracked_adapters(run)]


def test_adapters_are_found_among_files() -> None:
    assert listed(f"b/{CONFIG}", f"b/{WEIGHTS}", f"a/{CONFIG}", f"a/{PEFT}", "a/log.txt") == [
        ("a", {CONFIG: f"a/{CONFIG}", PEFT: f"a/{PEFT}", "log.txt": "a/log.txt"}),
        ("b", {CONFIG: f"b/{CONFIG}", WEIGHTS: f"b/{WEIGHTS}"}),
    ]
    assert listed(CONFIG, WEIGHTS) == [("", {CONFIG: CONFIG, WEIGHTS: WEIGHTS})]
    assert listed(f"a/{CONFIG}", f"b/{WEIGHTS}", f"best/{PEFT}") == []
    trained = [f"best/{CONFIG}", f"best/{WEIGHTS}"]
    saved = [f"checkpoint-5/{CONFIG}", f"checkpoint-5/{PEFT}"]
    output = [*trained, *saved, "state.json"]
    assert listed(*(f"out/{name}" for name in output)) == [("out", {name: f"out/{name}" for name in output})]
    assert listed(*trained) == [("", {name: name for name in trained})]
    callback = {name: f"checkpoint-5/artifacts/{name}" for name in saved}
    assert listed(*callback.values()) == [("", callback)]
    assert listed(*(f"run/{path}" for path in callback.values())) == [
        ("run", {name: f"run/{path}" for name, path in callback.items()})
    ]
    assert all(map(is_inside, ("a", "a/b.txt", "a..b")))
    for path in ("", ".", "..", "/", "/a", "../a", "a/../b", "a/..", "a//b", "a/", "./a", "a\\b", "a\0b"):
        assert not is_inside(path), path


def run_of(folder: Path, prefix: str = "", **changes: Any) -> TrackedRun:
    """Return a run with the files of a folder below a path."""
    files = {prefix + path.name: path.stat().st_size for path in folder.iterdir()}

    def fetch(path: str, place: Path) -> None:
        shutil.copyfile(folder / path.removeprefix(prefix), place)

    return replace(TrackedRun("r1", "first", "Course Rec!", RECORD, {}, files, fetch), **changes)


def test_runs_are_registered_and_refused_one_by_one(
    sqlite_registry: Registry, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    here = sqlite_registry
    here.bases.add(tiny_base, name="tiny")

    def take(*runs: TrackedRun, **options: Any) -> list[ImportedRun]:
        register, record = here.adapters.register, here.evaluations.record
        return list(import_runs(here.workspace, register, record, runs, "odd", base="tiny", **options))

    metrics = {"a/acc": 0.5, "a acc": 0.6, "a/bad": math.nan, "other": 1.0}
    path = "outputs/course_rec_v3_20260201"
    run = run_of(make_adapter(), f"{path}/", metrics=metrics)
    assert [(each.adapter, each.path) for each in take(run, dry_run=True)] == [(None, path)]
    assert here.adapters.list() == []
    [done] = take(run, metrics=["a*"])
    assert (done.adapter, done.created) == ("course_rec_v3_20260201", True)
    # Two metrics have the same name in evaluations: the first one counts.
    assert (done.metrics, bool(done.error), bool(done.hint)) == (("a.acc",), True, True)
    [recorded] = here.evaluations.list()
    assert (recorded.metric, recorded.value, recorded.harness) == ("a.acc", 0.6, "odd")
    shown = here.adapters.show("course_rec@3")
    assert shown.tags == {"odd.run_id": "r1", "odd.project": "Course Rec!"}
    assert shown.training_run is not None and shown.training_run.seconds == 9
    [again] = take(replace(run, id="r2"))  # the same bytes are the same adapter, and its tags stay
    assert (again.adapter, again.created, again.metrics, again.error) == (done.adapter, False, (), None)
    assert here.adapters.show("course_rec@3").tags == shown.tags
    write_record(second := make_adapter("b", seed=5), RECORD.model_copy(update={"seconds": 5.0}))
    [named] = take(run_of(second), task="ads")
    own = here.adapters.show("ads@1").training_run
    assert own is not None and (own.seconds, named.path) == (5, "")
    lost = replace(run, id="r2", problem=BadInputError("gone", hint="look"), files={})
    assert [(each.error, each.hint) for each in take(lost)] == [("gone", "look")]
    others = (replace(run, id="r3", files=dict.fromkeys(run.files)), replace(run, id="r4", project="!!!"))
    refused = take(lost, *others, replace(run, metrics={"9" * 300: 1.0, "f1": 0.5}), metrics=["*"])
    facts = [(each.run, bool(each.error), each.adapter is None, each.metrics) for each in refused]
    assert facts == [(f"r{n}", True, True, ()) for n in (2, 3, 4)] + [("r1", True, False, ("f1",))]
    assert "r3" in (take(replace(run_of(second), id="r3", files={CONFIG: 1, PEFT: None}))[0].error or "")
    for runs, options in (([run], {"task": "a b"}), ([replace(run, files={"x": 1})], {}), ([], {})):
        with pytest.raises(BadInputError):
            take(*runs, **options)


PLUGIN = """
from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun

def read(source, *, experiments, runs):
    files = {"a": 1, source: 1}
    yield None if source == "nothing" else TrackedRun(*runs, source, *experiments, UNKNOWN, {}, files, fetch)

def fetch(path, place):
    if path == "link":
        place.symlink_to(__file__)
    elif path != "missing":
        place.write_text(path)
"""


def test_plugin_reads_the_runs_of_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = dict.fromkeys(("odd", "mlflow", "odd+runs"), "odd_pack:read")
    monkeypatch.syspath_prepend(
        write_package(tmp_path / "installed", "odd-pack", {"fusery.sources": entries}, PLUGIN)
    )
    assert source_names() == ["mlflow", "wandb", "odd", "odd+runs"]
    [run] = tracked_runs("odd", "link", experiments=["e"], runs=["r"])
    assert (run.id, run.name, run.project) == ("r", "link", "e")
    run.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a"
    for path in ("link", "missing"):
        with pytest.raises(PluginError):
            run.fetch(path, tmp_path / path)
    for tracker, source in (("odd", "nothing"), ("odd", "../a"), ("odd+runs", "a")):
        with pytest.raises(PluginError):
            list(tracked_runs(tracker, source, experiments=["e"], runs=["r"]))
    with pytest.raises(BadInputError) as caught:
        tracked_runs("even", "a")
    assert "odd" in (caught.value.hint or "")
