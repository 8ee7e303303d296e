"""Importing what MLflow keeps, with MLflow's own client and its own server."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import mlflow_server
import peft_folders
import pytest
import tiny_models
from mlflow import MlflowClient
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag
from run_folders import make_run, plain_log

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError, UnknownReferenceError
from fusery.registry.exchange import mlflow_runs as reading
from fusery.registry.exchange.mlflow_client import list_files
from fusery.testing.sources import SourceContract

# MLflow's own tables ask SQLAlchemy for what that will leave out one day.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

PEER = peft_folders.ROOT / "tests/support/models/mlflow_peer.py"

DAY = 1_790_000_000_000
"""When the first run began, in milliseconds since 1970: 2026-09-21."""


@pytest.fixture
def database_url() -> str:
    """What a tracker keeps has nothing to do with the database: once is enough."""
    return ""


@pytest.fixture
def client(tracking: str, tmp_path: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking)


def experiment(client: MlflowClient, name: str, folder: Path) -> str:
    return str(client.create_experiment(name, artifact_location=(folder / "artifacts").as_uri()))


def logged(
    client: MlflowClient,
    number: str,
    folder: Path,
    *,
    path: str | None = "adapter",
    name: str = "first",
    began: int = DAY,
    status: str = "FINISHED",
    metrics: dict[str, list[tuple[int, float]]] | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    """Log a run as somebody does who trains, and return its id."""
    run = client.create_run(number, start_time=began, run_name=name, tags=tags).info.run_id
    for key, points in (metrics or {}).items():
        for step, value in points:
            client.log_metric(run, key, value, step=step)
    for key, value in (params or {}).items():
        client.log_param(run, key, value)
    client.log_artifacts(run, str(folder), path)
    client.set_terminated(run, status=status, end_time=began + 90_000)
    return str(run)


CURVE = {
    "loss": [(10, 3.0), (20, 2.5), (30, 2.0)],
    "eval_loss": [(10, 3.1), (20, 2.4), (30, 2.2)],
    "learning_rate": [(10, 1e-4), (20, 5e-5), (30, 0.0)],
    "mmlu/acc": [(30, 0.41)],
    "mmlu/acc_norm": [(30, 0.43)],
    "grad_norm": [(10, 1.0), (30, math.nan)],
}


def test_a_run_becomes_an_adapter_with_all_that_mlflow_knows(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base)
    number = experiment(client, "Course Recommender!", tmp_path)
    commit = "c0ffee" * 6 + "c0ff"
    run = logged(
        client,
        number,
        folder,
        metrics=CURVE,
        params={"lr": "1e-4", "batch_size": "8"},
        tags={"mlflow.source.git.commit": commit},
    )
    data = MlflowDataset("courses", "abc12345", "local", "{}")
    client.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    [done] = with_base.exchange.import_runs(tracking, base="tiny", metrics=["mmlu/*", "grad_norm"])
    assert (done.error, done.created, done.path, done.run) == (None, True, "adapter", run)
    assert (done.adapter, done.metrics) == (
        "course_recommender_v1_20260921",
        ("mmlu.acc", "mmlu.acc_norm"),
    )
    found = with_base.adapters.show("course_recommender@1")
    assert (found.val_loss, found.dataset, found.dataset_revision) == (2.2, "courses", "abc12345")
    assert found.tags == {"mlflow.run_id": run, "mlflow.project": "Course Recommender!"}
    assert found.training_run is not None
    assert (found.training_run.state, found.training_run.seconds, found.training_run.source) == (
        "finished",
        90.0,
        "record",
    )
    assert found.training_run.arguments == {"lr": "1e-4", "batch_size": "8"}
    assert found.training_run.git is not None
    assert found.training_run.git.commit == commit
    assert [(each.iteration, each.train_loss, each.val_loss) for each in found.curve or ()] == [
        (10, 3.0, 3.1),
        (20, 2.5, 2.4),
        (30, 2.0, 2.2),
    ]
    assert [(each.metric, each.value, each.harness) for each in found.evaluations] == [
        ("mmlu.acc", 0.41, "mlflow"),
        ("mmlu.acc_norm", 0.43, "mlflow"),
    ]


def logged_model(
    client: MlflowClient, number: str, folder: Path, *, name: str, run: str | None = None
) -> str:
    """Log a model as MLflow 3 does: beside the run that it names, if any."""
    model = client.create_logged_model(number, name=name, source_run_id=run)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def test_logged_models_of_mlflow_3_are_imported(
    with_base: Registry,
    tiny_base: Path,
    client: MlflowClient,
    tracking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path / "tracking")  # no file may be made here
    number = experiment(client, "lessons", tmp_path)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "README.md").write_text("of the run", encoding="utf-8")
    run = logged(client, number, notes, path="model", metrics=CURVE)
    for seed, name in enumerate(("model", "twice", "twice")):
        folder = tmp_path / f"logged-{seed}"
        peft_folders.make_peft(folder / "peft", tiny_base, seed=seed)
        (folder / "MLmodel").write_text("flavors: {}", encoding="utf-8")
        if seed:
            (folder / "peft").rename(folder / "odd name")
        logged_model(client, number, folder, name=name, run=run)
    alone = logged_model(
        client, number, peft_folders.make_peft(tmp_path / "alone", tiny_base, seed=7), name="of_no_run"
    )
    seen = with_base.exchange.import_runs(tracking, dry_run=True)
    ids = {each.model_id for each in client.search_logged_models([number]) if each.name == "twice"}
    assert {(each.run, each.path) for each in seen} == {
        (run, "model/peft"),
        *((run, f"{each}/odd name") for each in ids),
        (alone, "of_no_run"),
    }
    done = with_base.exchange.import_runs(tracking, base="tiny")
    assert [(each.error, each.created) for each in done] == [(None, True)] * 4
    shown = {each.path: with_base.adapters.show(each.adapter or "") for each in done}
    assert shown["model/peft"].val_loss == 2.2
    direct = with_base.adapters.register(tmp_path / "logged-0" / "peft", base="tiny", task="direct")
    assert shown["model/peft"].digest == direct.digest
    assert len(with_base.exchange.import_runs(tracking, base="tiny", runs=[run], dry_run=True)) == 3
    assert {path.name for path in Path.cwd().iterdir()} == {"mlflow.db"}


@pytest.mark.slow
def test_models_logged_by_mlflow_and_transformers(with_base: Registry, tmp_path: Path) -> None:
    """The two ways from the documentation of MLflow and transformers, with their own code."""
    base = tiny_models.make_base(tmp_path / "hf", layout="hf", dtype="float32")
    with_base.bases.add(base, name="hf")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [peft_folders.peers_python(), PEER, base, tmp_path / "out", uri]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path)
    done = with_base.exchange.import_runs(uri, base="hf")
    assert [(each.run_name, each.path, each.error) for each in done] == [
        ("logged", "model/peft", None),
        ("callback", "", None),
    ]
    found = with_base.adapters.show(done[1].adapter or "").training_run
    assert found is not None
    assert (found.checkpoint, found.seconds is not None) == (4, True)


def test_tracker_without_adapters_is_an_error(
    with_base: Registry, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    number = experiment(client, "lessons", tmp_path)
    with pytest.raises(BadInputError, match="no adapter found in 0 runs of mlflow"):
        with_base.exchange.import_runs(tracking, base="tiny")
    logged(client, number, Path(__file__).parent / "__pycache__")
    with pytest.raises(BadInputError, match="no adapter found in 1 run of mlflow"):
        with_base.exchange.import_runs(tracking, dry_run=True)


def test_the_second_time_everything_is_known(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    number = experiment(client, "lessons", tmp_path)
    for seed, name in enumerate(("late", "early")):
        folder = peft_folders.make_peft(tmp_path / name, tiny_base, seed=seed)
        logged(client, number, folder, name=name, began=DAY - seed * 86_400_000, metrics=CURVE)
    first = with_base.exchange.import_runs(tracking, base="tiny", metrics=["mmlu*"])
    # Versions go by when the runs began.
    assert [(each.run_name, each.adapter) for each in first] == [
        ("early", "lessons_v1_20260920"),
        ("late", "lessons_v2_20260921"),
    ]
    again = with_base.exchange.import_runs(tracking, base="tiny", metrics=["mmlu*"])
    assert [(each.adapter, each.created, each.error) for each in again] == [
        (each.adapter, False, None) for each in first
    ]
    assert len(with_base.adapters.list()) == 2


def test_checkpoints_are_one_run_and_its_best_is_taken(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    for seed, step in enumerate((10, 20, 30)):
        peft_folders.make_peft(output / f"checkpoint-{step}", tiny_base, seed=seed)
    number = experiment(client, "lessons", tmp_path)
    logged(
        client, number, output, path="run", metrics={**CURVE, "eval_loss": [(10, 3.1), (20, 2.2), (30, 2.4)]}
    )
    [done] = with_base.exchange.import_runs(tracking, base="tiny")
    assert (done.path, done.error) == ("run", None)
    found = with_base.adapters.show("lessons@1")
    assert found.training_run is not None
    assert (found.training_run.checkpoint, found.training_run.chosen, found.val_loss) == (20, "best", 2.2)


def test_a_run_of_mlx_lm_with_its_numbered_checkpoints(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    run = make_run(
        tmp_path / "run", tiny_base, saved=(200, 400), log=plain_log({200: 1.5, 400: 1.2, 1000: 1.4})
    )
    logged(client, experiment(client, "lessons", tmp_path), run, path=None)
    [done] = with_base.exchange.import_runs(tracking, base="tiny", task="lessons")
    here = with_base.adapters.register(run, base="tiny", task="direct")
    assert done.error is None
    assert with_base.adapters.show(done.adapter or "").digest == with_base.adapters.show(here.name).digest


def test_one_that_is_refused_keeps_no_other_out(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    number = experiment(client, "lessons", tmp_path)
    broken = peft_folders.make_peft(tmp_path / "broken", tiny_base, seed=1)
    (broken / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    logged(client, number, broken, name="broken", began=DAY - 1000)
    logged(client, number, peft_folders.make_peft(tmp_path / "good", tiny_base), name="good")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "notes.txt").write_text("nothing to see", encoding="utf-8")
    logged(client, number, plain, name="no adapter", began=DAY + 1000)
    bad, good = with_base.exchange.import_runs(tracking, base="tiny")
    assert (bad.run_name, bad.adapter, good.adapter) == ("broken", None, "lessons_v1_20260921")
    assert "adapter_model.safetensors" in (bad.error or "")


def test_a_look_writes_nothing(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    run = logged(
        client,
        experiment(client, "lessons", tmp_path),
        peft_folders.make_peft(tmp_path / "peft", tiny_base),
    )
    other = experiment(client, "others", tmp_path)
    logged(client, other, peft_folders.make_peft(tmp_path / "other", tiny_base, seed=1), path="a/b")
    seen = with_base.exchange.import_runs(tracking, dry_run=True)
    assert {(each.project, each.path, each.adapter) for each in seen} == {
        ("lessons", "adapter", None),
        ("others", "a/b", None),
    }
    assert with_base.adapters.list() == []
    [one] = with_base.exchange.import_runs(tracking, experiments=["others"], dry_run=True)
    assert one.project == "others"
    [one] = with_base.exchange.import_runs(tracking, runs=[run], dry_run=True)
    assert one.run == run


def test_a_real_server_that_gives_the_files_out_itself(
    with_base: Registry, tiny_base: Path, mlflow_template: Path, tmp_path: Path
) -> None:
    python = peft_folders.peers_python()
    (tmp_path / "server").mkdir()
    with mlflow_server.running_server(python, tmp_path / "server", mlflow_template) as url:
        client = MlflowClient(tracking_uri=url)
        number = client.create_experiment("lessons")
        folder = peft_folders.make_peft(tmp_path / "peft", tiny_base)
        run = logged(client, number, folder, metrics=CURVE)
        other = peft_folders.make_peft(tmp_path / "other", tiny_base, seed=3)
        logged_model(client, number, other, name="model", run=run)
        done, model = with_base.exchange.import_runs(url, base="tiny", metrics=["mmlu/acc"])
    assert (model.path, model.error, model.created) == ("model", None, True)
    assert (done.adapter, done.error, done.metrics) == ("lessons_v1_20260921", None, ("mmlu.acc",))
    direct = with_base.adapters.register(folder, base="tiny", task="direct")
    assert with_base.adapters.show("lessons@1").digest == with_base.adapters.show(direct.name).digest


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:////nowhere/at/all.db", "there is no /nowhere/at/all.db"),
        ("sqlite:///nowhere.db", "there is no nowhere.db"),
        ("/nowhere/mlruns", "there is no /nowhere/mlruns"),
        ("file:///nowhere/mlruns", "there is no /nowhere/mlruns"),
        ("sqlite+pysqlite:///nowhere.db", "there is no nowhere.db"),
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("", "no place was given"),
        ("gopher://nobody", "gopher://nobody cannot be read as MLflow"),
        ("postgresql+nonsense://nobody/x", "cannot be read as MLflow"),
        ("mysql+pymysql://nobody/x", "cannot be read as MLflow"),
    ],
)
def test_a_place_without_mlflow(
    with_base: Registry, uri: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(BadInputError, match=said):
        with_base.exchange.import_runs(uri, dry_run=True)
    assert not list(Path.cwd().iterdir())


def test_a_server_that_is_not_there_keeps_the_password(
    with_base: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(BadInputError) as raised:
        with_base.exchange.import_runs("http://user:geheim@127.0.0.1:9/")
    shown = "".join(str(each) for each in (raised.value.message, raised.value.hint, raised.value.__cause__))
    assert "geheim" not in shown


def test_a_file_that_is_no_database_of_mlflow(with_base: Registry, tmp_path: Path) -> None:
    place = tmp_path / "other.db"
    place.write_bytes(b"no database at all " * 100)
    with pytest.raises(BadInputError, match="cannot be read as MLflow"):
        with_base.exchange.import_runs(f"sqlite:///{place}")
    assert place.read_bytes() == b"no database at all " * 100


def test_another_database_stays_as_it_is(with_base: Registry, tmp_path: Path) -> None:
    """MLflow's client makes its tables in whatever database it is given."""
    for name, statement in (("empty", None), ("other", "CREATE TABLE experiments (x)")):
        place = tmp_path / f"{name}.db"
        with contextlib.closing(sqlite3.connect(place)) as connection:
            if statement:
                connection.execute(statement)
        before = place.read_bytes()
        with pytest.raises(BadInputError, match="is no database of MLflow"):
            with_base.exchange.import_runs(f"sqlite:///{place}", dry_run=True)
        assert place.read_bytes() == before
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(BadInputError, match="is no folder of MLflow's runs"):
        with_base.exchange.import_runs(str(folder), dry_run=True)
    assert not list(folder.iterdir())


def test_a_folder_of_runs(
    with_base: Registry, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=str(tmp_path / "mlruns"))
    number = client.create_experiment("lessons")
    logged(client, number, peft_folders.make_peft(tmp_path / "peft", tiny_base), metrics=CURVE)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    [done] = with_base.exchange.import_runs(str(tmp_path / "mlruns"), base="tiny")
    assert (done.adapter, done.error) == ("lessons_v1_20260921", None)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("start_time", 2**62, "cannot be read as MLflow"),
        ("artifact_uri", "nope://x", "cannot be read as MLflow"),
        ("end_time", "nonsense", None),
    ],
)
def test_one_run_that_mlflow_cannot_have_written_keeps_no_other_out(
    column: str,
    value: object,
    said: str | None,
    with_base: Registry,
    tiny_base: Path,
    client: MlflowClient,
    tracking: str,
    tmp_path: Path,
) -> None:
    number = experiment(client, "lessons", tmp_path)
    bad = logged(client, number, peft_folders.make_peft(tmp_path / "bad", tiny_base, seed=1), name="bad")
    logged(client, number, peft_folders.make_peft(tmp_path / "good", tiny_base), name="good")
    if said is None:
        with contextlib.closing(sqlite3.connect(tracking.removeprefix("sqlite:///"))) as connection:
            connection.execute("UPDATE runs SET end_time = 1 WHERE run_uuid = ?", (bad,))
            connection.commit()
    else:
        with contextlib.closing(sqlite3.connect(tracking.removeprefix("sqlite:///"))) as connection:
            connection.execute(f"UPDATE runs SET {column} = ? WHERE run_uuid = ?", (value, bad))
            connection.commit()
    done = {each.run_name: each for each in with_base.exchange.import_runs(tracking, base="tiny")}
    assert done["good"].error is None
    if said is None:  # ended before it began: that is no second of training, and no reason to refuse it
        assert done["bad"].error is None
    else:
        assert said in (done["bad"].error or "")


def test_checkpoints_of_two_outputs_are_two(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    for seed, path in enumerate(("seed1/checkpoint-10", "seed2/checkpoint-10", "seed3/checkpoint-20")):
        peft_folders.make_peft(output / path, tiny_base, seed=seed)
    logged(client, experiment(client, "lessons", tmp_path), output, path=None)
    done = with_base.exchange.import_runs(tracking, base="tiny")
    assert [(each.path, each.error) for each in done] == [("seed1", None), ("seed2", None), ("seed3", None)]
    assert len({each.adapter for each in done}) == 3


def test_the_same_weights_in_two_runs_are_known(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    number = experiment(client, "lessons", tmp_path)
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base)
    for name in ("first", "second"):
        logged(client, number, folder, name=name)
    done = with_base.exchange.import_runs(tracking, base="tiny")
    assert [(each.adapter, each.created, each.error) for each in done] == [
        ("lessons_v1_20260921", True, None),
        ("lessons_v1_20260921", False, None),
    ]


def test_metrics_that_cannot_be_recorded_are_named_and_the_others_are(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base)
    metrics = {"a/b": [(1, 0.5)], "a.b": [(1, 0.25)], "---": [(1, 1.0)], "good": [(1, 2.0)]}
    logged(client, experiment(client, "lessons", tmp_path), folder, metrics=metrics)
    [done] = with_base.exchange.import_runs(tracking, base="tiny", metrics=["*"])
    assert (done.adapter, done.metrics) == ("lessons_v1_20260921", ("a.b", "good"))
    assert done.error == "the metrics 'a.b' and 'a/b' would both be called a.b"


def test_secrets_among_the_parameters_stay_out(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    params = {
        "password": "geheim1",
        "hub_token": "geheim2",
        "openai.api_key": "geheim3",
        "data": "https://u:geheim5@host/x",
        "pad_token": "<pad>",
        "max_tokens": "100",
    }
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base)
    logged(client, experiment(client, "lessons", tmp_path), folder, params=params)
    [done] = with_base.exchange.import_runs(tracking, base="tiny")
    found = with_base.adapters.show(done.adapter or "").training_run
    assert found is not None
    assert "geheim" not in str(found.arguments)
    assert (found.arguments or {})["pad_token"] == "<pad>"
    assert (found.arguments or {})["max_tokens"] == "100"


def test_what_was_logged_here_already_and_what_was_deleted(
    with_base: Registry,
    tiny_base: Path,
    client: MlflowClient,
    tracking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUSERY_HOME", str(with_base.workspace.settings.home))
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base, base_model_name_or_path="tiny")
    here = client.create_experiment("here", artifact_location="fusery://lessons")
    logged(client, str(here), folder)
    with pytest.raises(BadInputError, match="no adapter found in 1 run of mlflow"):
        with_base.exchange.import_runs(tracking, base="tiny")
    run = logged(client, experiment(client, "gone", tmp_path), folder)
    client.delete_run(run)
    with pytest.raises(UnknownReferenceError, match="no run"):
        with_base.exchange.import_runs(tracking, runs=[run])
    with pytest.raises(UnknownReferenceError, match="nobase"):
        with_base.exchange.import_runs(tracking, base="nobase", dry_run=True)


def test_experiments_and_runs_that_are_not_there(with_base: Registry, tracking: str) -> None:
    with pytest.raises(UnknownReferenceError, match="no experiment 'nothing'"):
        with_base.exchange.import_runs(tracking, experiments=["nothing"])
    with pytest.raises(UnknownReferenceError, match="no run '0123'"):
        with_base.exchange.import_runs(tracking, runs=["0123"])


def test_without_mlflow(with_base: Registry, tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match="MLflow needs packages"):
        with_base.exchange.import_runs(tracking)


def test_an_experiment_whose_name_is_no_task(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    logged(client, experiment(client, "???", tmp_path), peft_folders.make_peft(tmp_path / "peft", tiny_base))
    [done] = with_base.exchange.import_runs(tracking, base="tiny")
    assert (done.error, done.hint) == ("'???' does not make the name of a task", "give --task")
    with pytest.raises(BadInputError, match="task"):
        with_base.exchange.import_runs(tracking, base="tiny", task="??")


def test_artifacts_that_lead_out_of_the_run(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    """A server says where a run's artifacts lie and what they are called; neither reaches what an adapter is not."""
    number = experiment(client, "lessons", tmp_path)
    run = logged(client, number, peft_folders.make_peft(tmp_path / "peft", tiny_base))
    inside = tmp_path / "artifacts" / run / "artifacts" / "adapter"
    secret = tmp_path / "secret"
    secret.write_text("geheim", encoding="utf-8")
    (inside / "tokenizer.json").symlink_to(secret)
    with_base.exchange.import_runs(tracking, base="tiny")
    for place in (tmp_path / "home").rglob("*"):
        assert not place.is_file() or b"geheim" not in place.read_bytes()


class Listing:
    """A repository of artifacts whose server lists wrong paths."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def list_artifacts(self, folder: str | None) -> list[Any]:
        from mlflow.entities import FileInfo

        return [FileInfo(path, False, 1) for path in self.paths]


@pytest.mark.parametrize("path", ["../adapter/adapter_config.json", "/etc/passwd", "a/../../b"])
def test_a_listing_that_leads_elsewhere(path: str) -> None:
    with pytest.raises(BadInputError, match="outside of its folder"):
        list_files(Listing([path]).list_artifacts, "run 0")


def test_the_process_is_as_it_was_afterwards(
    with_base: Registry, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    """It may be one that trains, and logs to MLflow itself."""
    logger = logging.getLogger("mlflow")
    before, level = dict(os.environ), logger.level
    assert list(reading.mlflow_runs(tracking)) == []
    with pytest.raises(BadInputError):
        with_base.exchange.import_runs("gopher://nobody")
    assert (dict(os.environ), logger.level) == (before, level)


class TestMlflow(SourceContract):
    read = staticmethod(reading.mlflow_runs)
    nowhere = "sqlite:///nowhere.db"

    @pytest.fixture
    def place(self, client: MlflowClient, tracking: str, tiny_base: Path, tmp_path: Path) -> str:
        number = experiment(client, "lessons", tmp_path)
        for seed in (2, 1):
            folder = peft_folders.make_peft(tmp_path / f"peft{seed}", tiny_base, seed=seed)
            logged(client, number, folder, name=f"run {seed}", began=DAY + seed)
        return tracking
