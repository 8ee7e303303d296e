"""The runs of an MLflow server, database or folder, by MLflow's client; no model is loaded and no pickle opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import create_engine, inspect, make_url

from fusery.registry.errors import BadInputError, MissingExtraError, UnknownReferenceError
from fusery.registry.exchange.tracked_run import TrackedRun
from fusery.registry.registration.training_record import RecordedData, RunRecord
from fusery.storage.locate import display_url
from fusery.storage.secrets import without_secrets

from .tracker_client import MOST_RUNS, Client, TrackedFile, at_most, curve_of, dataset_of, git_of, parameters

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, LoggedModel, Run

_CLIENT = Client(
    "MLflow",
    {
        # Users of an import have not agreed to telemetry; fusery shows its own progress.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # MLflow warns about file stores; reading one is safe.
        "MLFLOW_ALLOW_FILE_STORE": "true",
        # Report an unreachable server within a minute.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SQLALCHEMYSTORE_MAX_RETRIES": "1",
    },
    ("mlflow", "alembic"),
    "check the address, MLFLOW_TRACKING_TOKEN and the network, and that MLflow's own command reads it: mlflow runs list",
)
_MOST_FOLDERS = 2_000
_DEEPEST = 8
_TABLES = {"experiments", "runs", "metrics", "alembic_version"}
_STATES = {"FINISHED": "finished", "FAILED": "stopped", "KILLED": "stopped"}
_PAGE = 1000
_MOST_PAGES = 1_000
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_PLACES = "give the value of MLFLOW_TRACKING_URI: http://HOST:5000, sqlite:///mlflow.db, or the folder mlruns"


def mlflow_runs(
    uri: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Yield the runs that MLflow has, oldest first."""
    with _CLIENT.quiet(), _CLIENT.readable(display_url(uri) or "MLflow"):
        _require_mlflow_data(uri)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingExtraError("MLflow", "mlflow") from error
        client = MlflowClient(tracking_uri=uri)
        chosen = [] if runs else _experiments(client, experiments)
        name = cache(lambda number: client.get_experiment(number).name)
        models = cache(partial(_models, client))
        for run in map(partial(_run, client), dict.fromkeys(runs)) if runs else _search(client, chosen):
            number = run.info.experiment_id
            yield _tracked(client, run, models(number).get(run.info.run_id, []), name(number), uri)
        for number in chosen:
            for model in models(number).get(None, []):
                yield _tracked_model(model, name(number), uri)


def _require_mlflow_data(uri: str) -> None:
    """Refuse a place without MLflow's data: its client would make tables, files and folders there."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in _DATABASES:
        _require_tables(uri)
    elif scheme in ("", "file") and uri.partition("://")[0] != "databricks":
        place = Path(unquote(urlsplit(uri).path)).expanduser()
        if not uri or not place.exists():
            raise BadInputError(f"folder not found: {place}" if uri else "no location given", hint=_PLACES)
        if not place.is_dir() or not any(place.glob("*/meta.yaml")):
            raise BadInputError(f"not a folder of MLflow runs: {place}", hint=_PLACES)


def _require_tables(uri: str) -> None:
    url = make_url(uri)
    shown = display_url(uri)
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise BadInputError("cannot import from a database in memory", hint=_PLACES)
        place = Path(url.database)
        if not place.is_file():
            raise BadInputError(f"database not found: {place}", hint=_PLACES)
        url = make_url(f"sqlite:///file:{quote(str(place.absolute()))}?mode=ro&uri=true")
        shown = str(place)
    wait = {"connect_timeout": 10} if url.get_backend_name() in ("postgresql", "mysql") else {}
    engine = create_engine(url, connect_args=wait)
    try:
        table_names = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if not table_names >= _TABLES:
        raise BadInputError(f"not a database of MLflow: {shown}", hint=_PLACES)


def _experiments(client: MlflowClient, names: Sequence[str]) -> list[str]:
    if not names:
        pages = _pages(lambda token: client.search_experiments(page_token=token))
        return [page.experiment_id for page in pages]
    experiments = []
    for name in names:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            hint = "mlflow experiments search"
            raise UnknownReferenceError(f"experiment not found in MLflow: {name[:100]!r}", hint=hint)
        experiments.append(experiment.experiment_id)
    return experiments


def _models(client: MlflowClient, number: str) -> Mapping[str | None, list[LoggedModel]]:
    """Return the logged models of an experiment by run id, oldest first; those under None have no run."""
    models = _pages(lambda token: client.search_logged_models([number], page_token=token))
    by_run: dict[str | None, list[LoggedModel]] = defaultdict(list)
    for model in sorted(models, key=lambda model: model.creation_timestamp):
        by_run[model.source_run_id or None].append(model)
    return by_run


def _search(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    if not experiments:
        return
    order: Mapping[str, Any] = {"order_by": ["attributes.start_time ASC"], "max_results": _PAGE}
    pages = _pages(lambda token: client.search_runs(experiments, page_token=token, **order))
    yield from at_most(pages, MOST_RUNS, "there are", "runs", "--experiment NAME takes some")


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    for _ in range(_MOST_PAGES):
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
    raise BadInputError(f"over {_MOST_PAGES:,} pages from MLflow", hint="select some with --experiment NAME")


def _run(client: MlflowClient, number: str) -> Run:
    from mlflow.exceptions import MlflowException

    unknown = UnknownReferenceError(f"MLflow run not found: {number[:60]!r}", hint="give the id in its URL")
    try:
        run = client.get_run(number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise unknown from without_secrets(error)
    if run.info.lifecycle_stage == "deleted":
        raise unknown
    return run


def _tracked(
    client: MlflowClient, run: Run, models: Sequence[LoggedModel], project: str, uri: str
) -> TrackedRun:
    def read(files: dict[str, TrackedFile]) -> tuple[RunRecord, dict[str, float]]:
        # Artifacts in a fusery registry are recorded already.
        if not run.info.artifact_uri.startswith("fusery://"):
            files |= _files(uri, run.info.artifact_uri, f"run {run.info.run_id}")
            files |= _files_of_models(uri, models)
        return _record(client, run), {key: float(value) for key, value in run.data.metrics.items()}

    return _CLIENT.run(str(run.info.run_id), str(run.info.run_name or run.info.run_id), project, read)


def _tracked_model(model: LoggedModel, project: str, uri: str) -> TrackedRun:
    """Return a model that was logged without a run, as a run of its own."""

    def read(files: dict[str, TrackedFile]) -> tuple[RunRecord, dict[str, float]]:
        if not model.artifact_location.startswith("fusery://"):
            files |= _files_of_models(uri, [model])
        began = datetime.fromtimestamp((model.creation_timestamp or 0) / 1000, UTC)
        values = {"state": "finished", "started_at": began, "arguments": parameters(model.params or {})}
        metrics = {metric.key: float(metric.value) for metric in model.metrics or ()}
        return RunRecord.model_validate(values), metrics

    return _CLIENT.run(str(model.model_id), str(model.name or model.model_id), project, read)


def _files_of_models(uri: str, models: Sequence[LoggedModel]) -> dict[str, TrackedFile]:
    """Return the artifacts of models, which MLflow 3 keeps beside the run, below the name of each."""
    names, files = Counter(model.name for model in models), dict[str, TrackedFile]()
    for model in models:
        folder = model.name if model.name and names[model.name] == 1 else model.model_id
        files |= _files(uri, model.artifact_location, f"model {model.model_id}", f"{folder}/")
    return files


def _files(uri: str, location: str, owner: str, prefix: str = "") -> dict[str, TrackedFile]:
    # Through `runs:/` and `models:/`, MLflow may ask another tracking server.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    root = add_databricks_profile_info_to_artifact_uri(location, uri)  # type: ignore[no-untyped-call]
    repository = get_artifact_repository(root, tracking_uri=uri)

    def download(path: str, folder: Path) -> Path:
        return Path(repository.download_artifacts(path, str(folder)))  # type: ignore[no-untyped-call]

    listed = list_files(repository.list_artifacts, owner)
    return {prefix + path: TrackedFile(size, partial(download, path)) for path, size in listed.items()}


def list_files(ask: Callable[[str | None], Sequence[FileInfo]], owner: str) -> dict[str, int | None]:
    """Return the artifacts of a run or a model, path to size in bytes."""
    files: dict[str, int | None] = {}
    left: list[str | None] = [None]
    asked = 0
    while left:
        folder, asked = left.pop(), asked + 1
        if asked > _MOST_FOLDERS:
            hint = "choose other runs with --run ID"
            raise BadInputError(f"{owner} has over {_MOST_FOLDERS:,} folders of artifacts", hint=hint)
        for entry in ask(folder):
            inside = entry.path.startswith(f"{folder}/") if folder else not entry.path.startswith("/")
            if not inside or ".." in entry.path.split("/"):
                hint = "look at it in MLflow's web interface"
                raise BadInputError(f"{owner} has an artifact outside of its folder", hint=hint)
            if not entry.is_dir:
                files[entry.path] = entry.file_size
            elif entry.path.count("/") < _DEEPEST:
                left.append(entry.path)
    return files


def _record(client: MlflowClient, run: Run) -> RunRecord:
    began, ended, tags = run.info.start_time or 0, run.info.end_time, run.data.tags
    dirty = tags.get("mlflow.source.git.dirty", "")

    def history(name: str) -> Iterator[tuple[object, object]]:
        return ((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))

    return RunRecord.model_validate(
        {
            "state": _STATES.get(run.info.status, "running"),
            "started_at": datetime.fromtimestamp(began / 1000, UTC),
            "seconds": max(0.0, (ended - began) / 1000) if ended else 0.0,
            "arguments": parameters(run.data.params),
            "curve": curve_of(run.info.run_id, run.data.metrics, history),
            "dataset": _dataset(run),
            "git": git_of(tags.get("mlflow.source.git.commit", ""), dirty=dirty.casefold() == "true"),
        }
    )


def _dataset(run: Run) -> RecordedData | None:
    """Return the input that is declared for training, else the only input."""
    inputs = list(run.inputs.dataset_inputs) if run.inputs else []

    def is_training(tag: Any) -> bool:
        return bool(tag.key == "mlflow.data.context" and tag.value.startswith("train"))

    training = [dataset_input for dataset_input in inputs if any(map(is_training, dataset_input.tags))]
    chosen = training or (inputs if len(inputs) == 1 else [])
    return dataset_of(chosen[0].dataset.name, chosen[0].dataset.digest or "") if chosen else None
