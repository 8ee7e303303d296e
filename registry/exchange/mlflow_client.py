"""MLflow's own client as an import uses it: quiet, with its errors as sentences, and with the artifacts of runs and models."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import FuseryError
from fusery.storage.locate import display_url
from fusery.storage.secrets import redact, without_secrets

from ..errors import BadInputError
from .tracked_run import moved_in

if TYPE_CHECKING:
    from mlflow.entities import FileInfo, LoggedModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_CALM = {
    # Users of an import have not agreed to telemetry; fusery shows its own progress.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow warns about file stores; reading one is safe.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # Report an unreachable server within a minute.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SQLALCHEMYSTORE_MAX_RETRIES": "1",
}
"""Settings of MLflow's client, unless the user sets them."""
_SAID = 200
_MOST_FOLDERS = 2_000
_DEEPEST = 8


@contextmanager
def calm() -> Iterator[None]:
    """Let MLflow's client be calm for as long as it is read from: the process may be one that logs to MLflow itself."""
    given = {name: value for name, value in _CALM.items() if name not in os.environ}
    levels = {logger: logger.level for logger in map(logging.getLogger, ("mlflow", "alembic"))}
    os.environ.update(given)
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Turn what MLflow's client and its plugins raise, which may be anything, into a sentence."""
    try:
        yield
    except (FuseryError, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001 -- MLflow and its plugins raise any type; each error is reported and ends the import
        raise _refusal(uri, error) from without_secrets(error)


def _refusal(uri: str, error: Exception) -> BadInputError:
    said = redact(str(error)).partition("\n")[0][:_SAID]
    return BadInputError(
        f"{display_url(uri) or 'MLflow'} cannot be read as MLflow: {type(error).__name__}{f': {said}' if said else ''}",
        hint="check the address, MLFLOW_TRACKING_TOKEN and the network, and that MLflow's own command reads it: mlflow runs list",
    )


class Artifacts:
    """The artifacts of a run, and those of the models that it logged, which MLflow 3 keeps beside the run.

    Attributes:
        sizes: path to size in bytes; a model's paths begin with its name, or with its id if two models have one name.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._places: dict[str, tuple[str, str]] = {}
        self.sizes: dict[str, int | None] = {}

    def add_models(self, models: Sequence[LoggedModel]) -> None:
        """List the artifacts of models."""
        names = Counter(model.name for model in models)
        for model in models:
            alone = model.name and names[model.name] == 1
            prefix = f"{model.name if alone else model.model_id}/"
            self.add(model.artifact_location, f"model {model.model_id}", prefix)

    def add(self, location: str, owner: str, prefix: str = "") -> None:
        """List the artifacts at the location that a run or a model has."""
        for path, size in list_files(self._repository(location).list_artifacts, owner).items():
            self._places[prefix + path] = location, path
            self.sizes[prefix + path] = size

    def fetch(self, path: str, place: Path) -> None:
        """Download an artifact to a path on this machine."""
        location, inside = self._places[path]

        def put(folder: Path) -> Path:
            return Path(self._repository(location).download_artifacts(inside, str(folder)))  # type: ignore[no-untyped-call]

        with calm(), readable(self._uri):
            told = f"MLflow returned another file for {path[:200]} than it lists"
            moved_in(place, put, told, size=self.sizes[path], digest=lambda _: True)

    def _repository(self, location: str) -> ArtifactRepository:
        # Through `runs:/` and `models:/` MLflow asks the tracking store of its environment, and not always this one.
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        root = add_databricks_profile_info_to_artifact_uri(location, self._uri)  # type: ignore[no-untyped-call]
        return get_artifact_repository(root, tracking_uri=self._uri)


def list_files(ask: Callable[[str | None], Sequence[FileInfo]], owner: str) -> dict[str, int | None]:
    """Return the artifacts of a run or a model, path to size in bytes.

    Args:
        ask: lists a folder, or the outermost one.
        owner: the run or model, for messages.
    """
    found: dict[str, int | None] = {}
    left: list[str | None] = [None]
    asked = 0
    while left:
        folder, asked = left.pop(), asked + 1
        if asked > _MOST_FOLDERS:
            raise BadInputError(
                f"{owner} has over {_MOST_FOLDERS:,} folders of artifacts",
                hint="choose other runs with --run ID",
            )
        for each in ask(folder):
            inside = each.path.startswith(f"{folder}/") if folder else not each.path.startswith("/")
            if not inside or ".." in each.path.split("/"):
                raise BadInputError(
                    f"{owner} has an artifact outside of its folder",
                    hint="look at it in MLflow's web interface",
                )
            if not each.is_dir:
                found[each.path] = each.file_size
            elif each.path.count("/") < _DEEPEST:
                left.append(each.path)
    return found
