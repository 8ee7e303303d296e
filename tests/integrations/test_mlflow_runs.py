"""Importing what MLflow keeps, with MLflow's own client and its own server."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft_folders
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, FileInfo, InputTag
from programs import free_port, running_program

from fusery.integrations import mlflow_runs as reading
from fusery.integrations.mlflow_runs import list_files
from fusery.integrations.tracker_client import is_secret, parameters
from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError, UnknownReferenceError
from fusery.registry.exchange.tracked_run import TrackedRun, is_inside, tracked_adapters
from fusery.registry.registration.training_record import RunRecord
from fusery.testing.sources import SourceContract

# MLflow's own tables ask SQLAlchemy for what that will leave out one day.
pytestmark = [pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"), pytest.mark.timing]

DAY = 1_790_000_000_000  # when the first run began, in milliseconds since 1970: 2026-09-21


@contextlib.contextmanager
def running_mlflow(python: Path, folder: Path, database: Path) -> Iterator[str]:
    """Run a server that keeps its database and artifacts in `folder`, and gives artifacts out itself; yield its URL."""
    port = free_port()
    shutil.copy(database, folder / "mlflow.db")
    # What `mlflow server` starts in the end: it would import all of MLflow once more, to say just this.
    command = [str(python), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its jobs would be seven more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command.append("mlflow.server.fastapi_app:app")
    log = folder / "server.log"
    with running_program(
        command,
        log,
        lambda: socket.create_connection(("127.0.0.1", port)).close() or True,
        environment=settings,
        folder=folder,
        how=signal.SIGTERM,
    ):
        yield f"http://127.0.0.1:{port}"


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
        params={"lr": "1e-4", "hub_token": "geheim"},
        tags={"mlflow.source.git.commit": commit},
    )
    data = MlflowDataset("courses", "abc12345", "local", "{}")
    client.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    [done] = with_base.exchange.import_runs(tracking, base="tiny", metrics=["mmlu/*", "grad_norm"])
    assert (done.error, done.created, done.path, done.run) == (None, True, "adapter", run)
    assert (done.adapter, done.metrics) == ("course_recommender_v1_20260921", ("mmlu.acc", "mmlu.acc_norm"))
    found = with_base.adapters.show("course_recommender@1")
    assert (found.val_loss, found.dataset, found.dataset_revision) == (2.2, "courses", "abc12345")
    assert found.tags == {"mlflow.run_id": run, "mlflow.project": "Course Recommender!"}
    trained = found.training_run
    assert trained is not None and trained.git is not None
    assert (trained.state, trained.seconds, trained.source) == ("finished", 90.0, "record")
    assert (trained.arguments, trained.git.commit) == ({"lr": "1e-4", "hub_token": "***"}, commit)
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
    assert with_base.exchange.import_runs(tracking, experiments=["lessons"], dry_run=True) != []
    seen = with_base.exchange.import_runs(tracking, dry_run=True)
    assert with_base.adapters.list() == []
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
def test_a_real_server_that_gives_the_files_out_itself(
    with_base: Registry, tiny_base: Path, mlflow_template: Path, tmp_path: Path
) -> None:
    python = peft_folders.peers_python()
    (tmp_path / "server").mkdir()
    with running_mlflow(python, tmp_path / "server", mlflow_template) as url:
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


def test_an_experiment_whose_name_is_no_task(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    logged(client, experiment(client, "???", tmp_path), peft_folders.make_peft(tmp_path / "peft", tiny_base))
    [done] = with_base.exchange.import_runs(tracking, base="tiny")
    assert (done.error, done.hint) == ("cannot derive a task name from project '???'", "give --task")
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


def test_a_place_without_mlflow_is_refused_and_left_alone(
    with_base: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's client makes its tables in whatever database it is given, and may raise anything."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "work" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    Path("noise.db").write_bytes(b"no database at all " * 100)
    for name, statement in (("empty", "SELECT 1"), ("other", "CREATE TABLE experiments (x)")):
        with contextlib.closing(sqlite3.connect(f"{name}.db")) as connection:
            connection.execute(statement)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    environment, level = dict(os.environ), logging.getLogger("mlflow").level
    for uri in (
        "sqlite:////nowhere/at/all.db",
        "file:///nowhere/mlruns",
        "sqlite+pysqlite:///nowhere.db",
        "sqlite:///:memory:",
        "",
        "gopher://nobody",
        "postgresql+nonsense://nobody/x",
        "http://user:geheim@127.0.0.1:9/",
        *(f"sqlite:///{name}.db" for name in ("noise", "empty", "other")),
        "folder",
    ):
        with pytest.raises(BadInputError) as raised:
            with_base.exchange.import_runs(uri, dry_run=True)
        assert "geheim" not in f"{raised.value.message}{raised.value.hint}{raised.value.__cause__}"
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before, uri
    # The process may be one that trains, and logs to MLflow itself.
    assert (dict(os.environ), logging.getLogger("mlflow").level) == (environment, level)


def test_what_the_tracker_does_not_have(
    with_base: Registry,
    tiny_base: Path,
    client: MlflowClient,
    tracking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUSERY_REGISTRY", str(with_base.workspace.settings.home))
    monkeypatch.setenv("FUSERY_DATABASE_URL", with_base.workspace.settings.database_url)
    with pytest.raises(BadInputError):  # no run
        with_base.exchange.import_runs(tracking, base="tiny")
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base, base_model_name_or_path="tiny")
    logged(client, str(client.create_experiment("here", artifact_location="fusery://lessons")), folder)
    with pytest.raises(BadInputError):  # no run but those that are on record here
        with_base.exchange.import_runs(tracking, base="tiny")
    run = logged(client, experiment(client, "gone", tmp_path), folder)
    client.delete_run(run)
    for asked in ({"runs": [run]}, {"runs": ["0123"]}, {"experiments": ["nothing"]}, {"base": "nobase"}):
        with pytest.raises(UnknownReferenceError):
            with_base.exchange.import_runs(tracking, dry_run=True, **asked)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError):
        with_base.exchange.import_runs(tracking)


def test_a_run_that_mlflow_cannot_have_written_keeps_no_other_out(
    with_base: Registry, tiny_base: Path, client: MlflowClient, tracking: str, tmp_path: Path
) -> None:
    number = experiment(client, "lessons", tmp_path)
    edits = {
        "good": None,
        "late": ("start_time", 2**62),
        "elsewhere": ("artifact_uri", "nope://x"),
        "short": ("end_time", 1),
    }
    for seed, (name, edit) in enumerate(edits.items()):
        run = logged(client, number, peft_folders.make_peft(tmp_path / name, tiny_base, seed=seed), name=name)
        if edit is not None:
            with contextlib.closing(sqlite3.connect(tracking.removeprefix("sqlite:///"))) as connection:
                connection.execute(f"UPDATE runs SET {edit[0]} = ? WHERE run_uuid = ?", (edit[1], run))
                connection.commit()
    done = with_base.exchange.import_runs(tracking, base="tiny")
    # One that ended before it began has no second of training, which is no reason to refuse it.
    assert {each.run_name: each.error is None for each in done} == {
        "good": True, "late": False, "elsewhere": False, "short": True
    }  # fmt: skip


@pytest.mark.parametrize("path", ["../adapter/adapter_config.json", "/etc/passwd", "a/../../b"])
def test_a_listing_that_leads_elsewhere(path: str) -> None:
    with pytest.raises(BadInputError):
        list_files(lambda folder: [FileInfo(path, False, 1)], "run 0")


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


def tracked(*paths: str) -> Iterator[tuple[str, list[str]]]:
    record = RunRecord.model_validate({"started_at": "2026-09-21T00:00:00Z"})
    run = TrackedRun("0", "run", "lessons", record, {}, dict.fromkeys(paths, 1), lambda path, place: None)
    return ((each.path, sorted(each.files)) for each in tracked_adapters(run))


WHOLE = ("adapter_config.json", "adapter_model.safetensors")


def folder(path: str, *names: str) -> list[str]:
    return [f"{path}/{name}" if path else name for name in (names or WHOLE)]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([], {}),
        (folder("", "adapter_config.json"), {}),
        (folder("", "adapter_model.safetensors", "config.json"), {}),
        (folder(""), {"": list(WHOLE)}),
        (folder("a") + folder("b"), {"a": list(WHOLE), "b": list(WHOLE)}),
        # A trainer's output folder: its own weights and two checkpoints are one.
        (
            folder("out") + folder("out/checkpoint-10") + folder("out/checkpoint-20"),
            {"out": [*WHOLE, *(f"checkpoint-{n}/{name}" for n in (10, 20) for name in WHOLE)]},
        ),
        # Checkpoints of two outputs are two.
        (
            folder("seed1/checkpoint-10") + folder("seed2/checkpoint-10"),
            {f"seed{n}": [f"checkpoint-10/{name}" for name in WHOLE] for n in (1, 2)},
        ),
        # transformers' own callback for MLflow makes a model of each checkpoint.
        (
            folder("checkpoint-10/artifacts/checkpoint-10") + folder("checkpoint-20/artifacts/checkpoint-20"),
            {"": [f"checkpoint-{n}/{name}" for n in (10, 20) for name in WHOLE]},
        ),
    ],
)
def test_the_adapters_among_the_artifacts(paths: list[str], found: dict[str, list[str]]) -> None:
    assert dict(tracked(*paths)) == {path: sorted(names) for path, names in found.items()}


SECRET = """password db_password dbPassword passwd pwd secret client_secret api_key openaiApiKey hub_token trainer/hub_token
token tok aws_session_token github_token hf-token credentials AWS_SECRET_ACCESS_KEY HF_TOKEN private_key use_auth_token"""
PLAIN = """pad_token eos_token image_token max_tokens tokens tokenizer learning_rate key key_value_heads monkey lr passes"""


def test_names_of_secrets() -> None:
    assert [name for name in SECRET.split() if not is_secret(name)] == []
    assert [name for name in PLAIN.split() if is_secret(name)] == []


def test_parameters_lose_what_is_secret_wherever_it_stands() -> None:
    given = {
        "lr": 1e-4,
        "hub": {"token": "S1", "name": "x"},
        "list": [{"api_key": "S2"}],
        "argv": ["train.py", "--hub_token", "S3", "--api-key=S4", "--rank", "8"],
        "done": True,
        "none": None,
    }
    kept = parameters(given)
    assert not any(f"S{number}" in repr(kept) for number in range(1, 5))
    assert kept["argv"] == ["train.py", "--hub_token", "***", "--api-key=***", "--rank", "8"]
    assert (kept["lr"], kept["hub"]["name"], kept["done"], kept["none"]) == (1e-4, "x", True, None)


def test_paths_that_stay_inside() -> None:
    assert all(map(is_inside, ["a", "a/b.json", "adapter:v0/a..b"]))
    others = ["", ".", "./a", "a//b", "a/./b", "a/../b", "../a", "/a", "a\\b", "a\0b", "a/"]
    assert not any(map(is_inside, others))
