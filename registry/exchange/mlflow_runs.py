"""The runs and logged models of an MLflow server, database or folder, read with MLflow's own client.

Only metrics, parameters, tags, inputs and files are read.  Models that MLflow could load are never loaded, and pickles
never opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import create_engine, inspect, make_url

from fusery.storage.locate import display_url
from fusery.storage.secrets import without_secrets

from ..errors import BadInputError, MissingExtraError, UnknownReferenceError
from ..training.record import RecordedData, RecordedGit, RecordedPoint, RunRecord
from .mlflow_client import Artifacts, calm, readable
from .tracked_run import (
    COMMIT,
    FINGERPRINT,
    LOSSES,
    MOST_RUNS,
    TEXT,
    UNKNOWN,
    TrackedRun,
    curve_of,
    parameters,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_TABLES = {"experiments", "runs", "metrics", "alembic_version"}
_STATES = {"FINISHED": "finished", "FAILED": "stopped", "KILLED": "stopped"}
_PAGE = 1000
_MOST_PAGES = 1_000
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_PLACES = "give what MLFLOW_TRACKING_URI is: http://HOST:5000, sqlite:///mlflow.db, or the folder mlruns"


def mlflow_runs(
    uri: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Yield the runs that MLflow has, oldest first.

    Args:
        uri: where MLflow tracks: a server's URL, `sqlite:///FILE`, or a folder.
        experiments: names of those to read; none for all that are not deleted.
        runs: ids of single runs, instead.

    Raises:
        MissingExtraError: MLflow is not installed.
        BadInputError: there is nothing there, it cannot be read, or there are absurdly many runs.
        UnknownReferenceError: there is no such experiment or run.
    """
    with calm(), readable(uri):
        _require_there(uri)
        client = _client(uri)
        chosen = [] if runs else _experiments(client, experiments)
        known = _Experiments(client)
        for run in map(partial(_run, client), dict.fromkeys(runs)) if runs else _search(client, chosen):
            number, models = run.info.experiment_id, known.models(run.info.experiment_id)
            yield _tracked(client, run, models.get(run.info.run_id, []), known.name(number), uri)
        for number in chosen:
            for model in known.models(number).get(None, []):
                yield _tracked_model(model, known.name(number), uri)


def _client(uri: str) -> MlflowClient:
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise MissingExtraError("MLflow", "mlflow") from error
    return MlflowClient(tracking_uri=uri)


def _require_there(uri: str) -> None:
    """Refuse what MLflow has never written to: its client would make tables, files and folders there.

    Raises:
        BadInputError: there is nothing, or something else.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in _DATABASES:
        _require_tables(uri)
    elif scheme in ("", "file") and uri.partition("://")[0] != "databricks":
        place = Path(unquote(urlsplit(uri).path)).expanduser()
        if not uri or not place.exists():
            raise BadInputError(f"there is no {place}" if uri else "no place was given", hint=_PLACES)
        if not place.is_dir() or not any(place.glob("*/meta.yaml")):
            raise BadInputError(f"{place} is no folder of MLflow's runs", hint=_PLACES)


def _require_tables(uri: str) -> None:
    url = make_url(uri)
    shown = display_url(uri)
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise BadInputError("a database in memory holds nothing to import", hint=_PLACES)
        place = Path(url.database)
        if not place.is_file():
            raise BadInputError(f"there is no {place}", hint=_PLACES)
        url = make_url(f"sqlite:///file:{quote(str(place.absolute()))}?mode=ro&uri=true")
        shown = str(place)
    wait = {"connect_timeout": 10} if url.get_backend_name() in ("postgresql", "mysql") else {}
    engine = create_engine(url, connect_args=wait)
    try:
        found = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if not found >= _TABLES:
        raise BadInputError(f"{shown} is no database of MLflow", hint=_PLACES)


def _experiments(client: MlflowClient, names: Sequence[str]) -> list[str]:
    if not names:
        pages = _pages(lambda token: client.search_experiments(page_token=token))
        return [each.experiment_id for each in pages]
    found = []
    for name in names:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise UnknownReferenceError(
                f"MLflow has no experiment {name[:100]!r}", hint="mlflow experiments search"
            )
        found.append(experiment.experiment_id)
    return found


class _Experiments:
    """Names and logged models of experiments, each requested once."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._names: dict[str, str] = {}
        self._models: dict[str, dict[str | None, list[LoggedModel]]] = {}

    def name(self, number: str) -> str:
        """Return the name of an experiment."""
        if number not in self._names:
            self._names[number] = self._client.get_experiment(number).name
        return self._names[number]

    def models(self, number: str) -> Mapping[str | None, list[LoggedModel]]:
        """Return the logged models of an experiment by run id, oldest first; those under None have no run."""
        if number not in self._models:
            found = list(_pages(lambda token: self._client.search_logged_models([number], page_token=token)))
            found.sort(key=lambda model: model.creation_timestamp)
            by_run: dict[str | None, list[LoggedModel]] = {}
            for model in found:
                by_run.setdefault(model.source_run_id or None, []).append(model)
            self._models[number] = by_run
        return self._models[number]


def _search(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    if not experiments:
        return
    pages = _pages(
        lambda token: client.search_runs(
            experiments, order_by=["attributes.start_time ASC"], max_results=_PAGE, page_token=token
        )
    )
    for number, run in enumerate(pages):
        if number == MOST_RUNS:
            raise BadInputError(f"there are over {MOST_RUNS:,} runs", hint="--experiment NAME takes some")
        yield run


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    for _ in range(_MOST_PAGES):
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
    raise BadInputError(
        f"MLflow answers with over {_MOST_PAGES:,} pages", hint="--experiment NAME takes some"
    )


def _run(client: MlflowClient, number: str) -> Run:
    from mlflow.exceptions import MlflowException

    unknown = UnknownReferenceError(
        f"MLflow has no run {number[:60]!r}", hint="give its id, as the address of its page has it"
    )
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
    """Return a run; one that is not what MLflow writes has a problem, and keeps no other out."""
    number, name = str(run.info.run_id), str(run.info.run_name or run.info.run_id)[:TEXT]
    artifacts = Artifacts(uri)
    try:
        with readable(uri):
            # What a run has logged here already is no news.
            if not run.info.artifact_uri.startswith("fusery://"):
                artifacts.add(run.info.artifact_uri, f"run {number}")
                artifacts.add_models(models)
            record = _record(client, run)
    except BadInputError as problem:
        return TrackedRun(number, name, project, UNKNOWN, {}, {}, artifacts.fetch, problem)
    metrics = {key: float(value) for key, value in run.data.metrics.items()}
    return TrackedRun(number, name, project, record, metrics, artifacts.sizes, artifacts.fetch)


def _tracked_model(model: LoggedModel, project: str, uri: str) -> TrackedRun:
    """Return a model that was logged without a run, as a run of its own."""
    number, name = str(model.model_id), str(model.name or model.model_id)[:TEXT]
    artifacts = Artifacts(uri)
    try:
        with readable(uri):
            if not model.artifact_location.startswith("fusery://"):
                artifacts.add_models([model])
            began = datetime.fromtimestamp((model.creation_timestamp or 0) / 1000, UTC)
            record = RunRecord.model_validate(
                {"state": "finished", "started_at": began, "arguments": parameters(model.params or {})}
            )
    except BadInputError as problem:
        return TrackedRun(number, name, project, UNKNOWN, {}, {}, artifacts.fetch, problem)
    metrics = {each.key: float(each.value) for each in model.metrics or ()}
    return TrackedRun(number, name, project, record, metrics, artifacts.sizes, artifacts.fetch)


def _record(client: MlflowClient, run: Run) -> RunRecord:
    """Return what MLflow knows of a run, as a run would have recorded it itself."""
    began, ended = run.info.start_time or 0, run.info.end_time
    return RunRecord.model_validate(
        {
            "state": _STATES.get(run.info.status, "running"),
            "started_at": datetime.fromtimestamp(began / 1000, UTC),
            "seconds": max(0.0, (ended - began) / 1000) if ended else 0.0,
            "arguments": parameters(run.data.params),
            "curve": _curve(client, run),
            "dataset": _dataset(run),
            "git": _git(run.data.tags),
        }
    )


def _curve(client: MlflowClient, run: Run) -> list[RecordedPoint]:
    points: dict[int, dict[str, float]] = {}
    for field, names in LOSSES.items():
        name = next((each for each in names if each in run.data.metrics), None)
        for each in client.get_metric_history(run.info.run_id, name) if name else ():
            if math.isfinite(each.value) and 0 <= each.step < 2**31:
                points.setdefault(each.step, {})[field] = each.value
    return curve_of(run.info.run_id, points)


def _dataset(run: Run) -> RecordedData | None:
    """Return what was trained on: the input that is said to be for training, else the only one there is."""
    inputs = list(run.inputs.dataset_inputs) if run.inputs else []
    training = [
        each
        for each in inputs
        if any(tag.key == "mlflow.data.context" and tag.value.startswith("train") for tag in each.tags)
    ]
    chosen = training or (inputs if len(inputs) == 1 else [])
    if not chosen:
        return None
    data = chosen[0].dataset
    digest = data.digest if data.digest and FINGERPRINT.fullmatch(data.digest) else None
    return RecordedData(name=data.name[:TEXT], fingerprint=digest)


def _git(tags: Mapping[str, str]) -> RecordedGit | None:
    commit = tags.get("mlflow.source.git.commit", "")
    if not COMMIT.fullmatch(commit):
        return None
    return RecordedGit(commit=commit, dirty=tags.get("mlflow.source.git.dirty", "").casefold() == "true")
