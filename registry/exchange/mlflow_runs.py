"""The runs of an MLflow server, database or folder, read with MLflow's own client.

Only metrics, parameters, tags, inputs and files are read.  Models that MLflow could load are never loaded, and pickles
never opened.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from fusery.storage.errors import FuseryError
from fusery.storage.locate import display_url
from fusery.storage.secrets import without_secrets

from ..errors import BadInputError, MissingExtraError, UnknownReferenceError
from ..training.record import RecordedData, RecordedGit, RecordedPoint, RunRecord
from .tracked_run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_TRAIN, _VAL, _RATE = (
    ("loss", "train/loss", "train_loss"),
    ("eval_loss", "eval/loss", "val_loss", "valid_loss", "validation_loss"),
    ("learning_rate", "train/learning_rate", "lr"),
)
"""What trainers call a loss: transformers', mlx-lm's, and those that follow them.  The first that was measured counts."""
_STATES = {"FINISHED": "finished", "FAILED": "stopped", "KILLED": "stopped"}
_PAGE = 1000
_MOST_RUNS = 10_000
_MOST_FOLDERS = 2_000
_DEEPEST = 8
_MOST_POINTS = 200_000
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_FINGERPRINT = re.compile(r"[0-9A-Za-z]{1,64}")
_TEXT = 500


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
    _require_there(uri)
    with _readable(uri):
        client = _client(uri)
        names: dict[str, str] = {}
        found = (
            [_run(client, each) for each in runs]
            if runs
            else _search(client, _experiments(client, experiments))
        )
        for run in found:
            number = run.info.experiment_id
            if number not in names:
                names[number] = client.get_experiment(number).name
            yield _tracked(client, run, names[number], uri)


def _client(uri: str) -> MlflowClient:
    # Who imports from a tracker has agreed to nothing that its client tells others, and has a bar already.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise MissingExtraError("MLflow", "mlflow") from error
    return MlflowClient(tracking_uri=uri)


def _require_there(uri: str) -> None:
    """Refuse a file or folder that is not there: MLflow would make a new one."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        # sqlite:////absolute and sqlite:///relative
        place = Path(unquote(parts.path.removeprefix("/")))
    elif parts.scheme in ("", "file"):
        place = Path(unquote(parts.path))
    else:
        return
    if not place.exists():
        raise BadInputError(
            f"there is no {place}",
            hint="give what MLFLOW_TRACKING_URI is: http://HOST:5000, sqlite:///mlflow.db, or the folder mlruns",
        )


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    """Turn what MLflow's client raises into a sentence."""
    try:
        yield
    except (FuseryError, GeneratorExit):
        raise
    except _failures() as error:
        raise BadInputError(
            f"{display_url(uri)} cannot be read as MLflow: {_said(error)}",
            hint="check the address, MLFLOW_TRACKING_TOKEN and the network",
        ) from without_secrets(error)


def _failures() -> tuple[type[Exception], ...]:
    kinds: tuple[type[Exception], ...] = (OSError, SQLAlchemyError, ValueError, TypeError, LookupError)
    try:
        from mlflow.exceptions import MlflowException
    except ImportError:
        return kinds
    return (MlflowException, *kinds)


def _said(error: Exception) -> str:
    code = getattr(error, "error_code", None)
    return f"{type(error).__name__}{f', {code}' if code else ''}"


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


def _search(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    if not experiments:
        return
    pages = _pages(
        lambda token: client.search_runs(
            experiments, order_by=["attributes.start_time ASC"], max_results=_PAGE, page_token=token
        )
    )
    for number, run in enumerate(pages):
        if number == _MOST_RUNS:
            raise BadInputError(f"there are over {_MOST_RUNS:,} runs", hint="--experiment NAME takes some")
        yield run


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token, seen = None, set()
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token or token in seen:
            return
        seen.add(token)


def _run(client: MlflowClient, number: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(number)
    except MlflowException as error:
        raise UnknownReferenceError(
            f"MLflow has no run {number[:60]!r}", hint="give its id, as the address of its page has it"
        ) from without_secrets(error)


def _tracked(client: MlflowClient, run: Run, project: str, uri: str) -> TrackedRun:
    number = run.info.run_id
    files = _files(client, number)

    def fetch(path: str, place: Path) -> None:
        with _readable(uri), TemporaryDirectory(dir=place.parent, prefix=".fetched-") as scratch:
            fetched = Path(client.download_artifacts(number, path, scratch)).resolve()
            if not fetched.is_relative_to(Path(scratch).resolve()) or not fetched.is_file():
                raise BadInputError(
                    f"MLflow gave no file for {path[:200]}", hint="look at the run in MLflow's pages"
                )
            shutil.move(fetched, place)

    metrics = {key: float(value) for key, value in run.data.metrics.items()}
    return TrackedRun(
        number, run.info.run_name or number, project, _record(client, run), metrics, files, fetch
    )


def _files(client: MlflowClient, number: str) -> dict[str, int | None]:
    """Return the artifacts of a run, those of the models that it logged among them."""
    found: dict[str, int | None] = {}
    left: list[str | None] = [None]
    asked = 0
    while left:
        folder, asked = left.pop(), asked + 1
        if asked > _MOST_FOLDERS:
            raise BadInputError(
                f"run {number} has over {_MOST_FOLDERS:,} folders of artifacts", hint="--run ID takes others"
            )
        for each in client.list_artifacts(number, folder):
            inside = each.path.startswith(f"{folder}/") if folder else not each.path.startswith("/")
            if not inside or ".." in each.path.split("/"):
                raise BadInputError(
                    f"run {number} has an artifact outside of its folder", hint="look at it in MLflow's pages"
                )
            if not each.is_dir:
                found[each.path] = each.file_size
            elif each.path.count("/") < _DEEPEST:
                left.append(each.path)
    return found


def _record(client: MlflowClient, run: Run) -> RunRecord:
    """Return what MLflow knows of a run, as a run would have recorded it itself."""
    began, ended = run.info.start_time or 0, run.info.end_time
    return RunRecord.model_validate(
        {
            "state": _STATES.get(run.info.status, "running"),
            "started_at": datetime.fromtimestamp(began / 1000, UTC),
            "seconds": max(0.0, (ended - began) / 1000) if ended else 0.0,
            "arguments": dict(run.data.params),
            "curve": _curve(client, run),
            "dataset": _dataset(run),
            "git": _git(run.data.tags),
        }
    )


def _curve(client: MlflowClient, run: Run) -> list[RecordedPoint]:
    points: dict[int, dict[str, float]] = {}
    for field, names in (("train_loss", _TRAIN), ("val_loss", _VAL), ("learning_rate", _RATE)):
        name = next((each for each in names if each in run.data.metrics), None)
        for each in client.get_metric_history(run.info.run_id, name) if name else ():
            if math.isfinite(each.value) and 0 <= each.step < 2**31:
                points.setdefault(each.step, {})[field] = each.value
    if len(points) > _MOST_POINTS:
        raise BadInputError(
            f"run {run.info.run_id} has {len(points):,} points", hint=f"at most {_MOST_POINTS:,} are taken"
        )
    return [
        RecordedPoint.model_validate({"iteration": step, **values})
        for step, values in sorted(points.items())
        if values.keys() & {"train_loss", "val_loss"}
    ]


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
    digest = data.digest if data.digest and _FINGERPRINT.fullmatch(data.digest) else None
    return RecordedData(name=data.name[:_TEXT], fingerprint=digest)


def _git(tags: Mapping[str, str]) -> RecordedGit | None:
    commit = tags.get("mlflow.source.git.commit", "")
    if not _COMMIT.fullmatch(commit):
        return None
    return RecordedGit(commit=commit, dirty=tags.get("mlflow.source.git.dirty", "").casefold() == "true")
