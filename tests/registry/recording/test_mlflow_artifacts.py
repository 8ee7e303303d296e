"""`fusery://TASK` as the place of an MLflow experiment's artifacts, through MLflow's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import peft_folders
import pytest
import tiny_models
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fusery.registry import Registry
from fusery.registry.recording.mlflow_artifacts import FuseryArtifactRepository

# MLflow's own tables ask SQLAlchemy for what that will leave out one day.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def database_url() -> str:
    return ""


@pytest.fixture
def home(registry: Registry, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry.bases.add(tiny_base, name="tiny")
    monkeypatch.setenv("FUSERY_REGISTRY", str(registry.workspace.settings.home))
    return registry


@pytest.fixture
def client(tracking: str) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    yield MlflowClient(tracking_uri=tracking)
    mlflow.set_tracking_uri(before)


@pytest.fixture
def run(client: MlflowClient) -> str:
    number = client.create_experiment("lessons", artifact_location="fusery://lessons")
    return str(client.create_run(number).info.run_id)


def made(folder: Path, base: Path, named: str) -> Path:
    tiny_models.make_adapter(folder, base)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": named}), encoding="utf-8")
    return folder


def test_logged_adapters(
    home: Registry, client: MlflowClient, run: str, tiny_base: Path, tmp_path: Path
) -> None:
    one = made(tmp_path / "one", tiny_base, "tiny")
    two = peft_folders.make_peft(tmp_path / "two", tiny_base, base_model_name_or_path="tiny")
    client.log_artifacts(run, str(one), "mlx")
    client.log_artifacts(run, str(two), "forms/peft")
    first, second = home.adapters.list(task="lessons", sort="version")
    assert (first.tags, second.tags) == ({f"mlflow.run.{run}": "mlx"}, {f"mlflow.run.{run}": "forms/peft"})
    listed = [(each.path, each.is_dir) for path in ("", "forms") for each in client.list_artifacts(run, path)]
    assert listed == [("forms", True), ("mlx", True), ("forms/peft", True)]
    files = {each.path: each.file_size for each in client.list_artifacts(run, "forms/peft")}
    assert files == {f"forms/peft/{each.name}": each.stat().st_size for each in two.iterdir()}
    (tmp_path / "all").mkdir()
    fetched = Path(client.download_artifacts(run, "", str(tmp_path / "all")))
    for folder, path in ((one, "mlx"), (two, "forms/peft")):
        for file in folder.iterdir():
            assert (fetched / path / file.name).read_bytes() == file.read_bytes()
    again = Path(client.download_artifacts(run, "mlx/adapters.safetensors", str(tmp_path / "all")))
    assert again.read_bytes() == (one / "adapters.safetensors").read_bytes()


def test_refused_folders(
    home: Registry, client: MlflowClient, run: str, tiny_base: Path, tmp_path: Path
) -> None:
    assert client.list_artifacts(run) == []
    with pytest.raises(MlflowException):
        client.log_text(run, "a text", "notes.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MlflowException, match="Hint: "):
        client.log_artifacts(run, str(empty))
    unknown = made(tmp_path / "one", tiny_base, "nobody/knows")
    with pytest.raises(MlflowException, match="nobody/knows"):
        client.log_artifacts(run, str(unknown))
    with pytest.raises(MlflowException):
        client.download_artifacts(run, "weights", str(empty))
    assert home.adapters.list() == []


def test_several_paths(
    home: Registry, client: MlflowClient, run: str, tiny_base: Path, tmp_path: Path
) -> None:
    one = made(tmp_path / "one", tiny_base, "tiny")
    two = peft_folders.make_peft(tmp_path / "two", tiny_base, base_model_name_or_path="tiny")
    for folder, path in ((one, "first"), (one, "second"), (one, "second"), (two, "second")):
        client.log_artifacts(run, str(folder), path)
    for folder, path in ((one, "first"), (two, "second")):
        listed = {file.path for file in client.list_artifacts(run, path)}
        assert listed == {f"{path}/{each.name}" for each in folder.iterdir()}


def test_paths_and_places_that_there_are_not(
    home: Registry,
    client: MlflowClient,
    run: str,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = str(made(tmp_path / "one", tiny_base, "tiny"))
    for path in ("x" * 600, "a|b"):
        with pytest.raises(MlflowException):
            client.log_artifacts(run, folder, path)
    place = FuseryArtifactRepository("fusery://lessons/0/artifacts")
    for path in ("../../x", "/abs", "a/../../b"):
        for ask in (
            lambda path: place.log_artifacts(folder, path),
            place.list_artifacts,
            lambda path: place._download_file(path, str(tmp_path / "out")),
        ):
            with pytest.raises(MlflowException):
                ask(path)
    for number, task in enumerate(("//", "///", "", "//lessons/../other", "//u:geheim@lessons")):
        experiment = client.create_experiment(f"nameless{number}", artifact_location=f"fusery:{task}")
        with pytest.raises(MlflowException) as raised:
            client.log_artifacts(client.create_run(experiment).info.run_id, folder)
        assert "geheim" not in str(raised.value)
    assert home.adapters.list() == []
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "nothing"))
    with pytest.raises(MlflowException, match="Hint: fusery"):
        client.list_artifacts(run)
