"""MLflow's place for artifacts at `fusery://TASK`: what a run logs there is an adapter of this registry.

    mlflow.create_experiment("lessons", artifact_location="fusery://lessons")
    with mlflow.start_run():
        ...
        mlflow.log_artifacts("adapters", "adapter")

MLflow finds this class by the entry point `mlflow.artifact_repository`; see its `ArtifactRepository` for the methods.  The
registry is that of the environment, since a run's URI is kept by the tracker, and is no place for settings or passwords.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

if TYPE_CHECKING:
    from ..api.registry import Registry
    from ..records.adapter_details import AdapterDetails

_SCHEME = "fusery://"
_TAG = "mlflow.run."
_ROOT = "."


class FuseryArtifactRepository(ArtifactRepository):
    """Registers the adapters that a run logs, and gives their files out again.

    An adapter that is logged has the tag `mlflow.run.ID`, with its path among the artifacts of the run.  Nothing else can
    be logged here: for figures and texts, take an experiment with another place.

    Args:
        artifact_uri: `fusery://TASK/.../ID/artifacts`, as MLflow makes it from the experiment's.
        tracking_uri: of MLflow; not used.
        registry_uri: of MLflow's own model registry; not used.

    Raises:
        MlflowException: the URI names no task, or no run.
    """

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        parts = PurePosixPath(artifact_uri.removeprefix(_SCHEME)).parts
        if not artifact_uri.startswith(_SCHEME) or len(parts) < 3 or "artifacts" not in parts[2:]:
            raise MlflowException.invalid_parameter_value(
                f"{artifact_uri[:200]} is not fusery://TASK/RUN/artifacts: make the experiment with"
                ' artifact_location="fusery://TASK"'
            )
        at = len(parts) - 1 - parts[::-1].index("artifacts")
        self._task, self._run = parts[0], parts[at - 1]
        self._inside = PurePosixPath(*parts[at + 1 :])

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Refuse a single file: an adapter is a folder."""
        raise MlflowException.invalid_parameter_value(
            f"{Path(local_file).name[:200]} is a file, and at fusery://{self._task} there are adapters: log the adapter's"
            " folder with mlflow.log_artifacts, and other files into an experiment with another place"
        )

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Register an adapter's folder, or the best checkpoint of a run's, as the next version of the task.

        Raises:
            MlflowException: there is no adapter in it, or it is refused.
        """
        from fusery.storage.errors import FuseryError

        path = str(self._inside / (artifact_path or "")) or _ROOT
        tags = {f"{_TAG}{self._run}": path}
        try:
            with _registry() as registry:
                # What another run has made already is known, and gets a second tag.
                done = registry.adapters.register(local_dir, task=self._task)
                registry.adapters.amend(done.name, tags=tags)
        except FuseryError as error:
            raise MlflowException.invalid_parameter_value(
                f"{error.message}{f'. Hint: {error.hint}' if error.hint else ''}"
            ) from error

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what lies directly under a path of the run."""
        folder = self._inside / (path or "")
        found: dict[str, FileInfo] = {}
        with _registry() as registry:
            files = self._files(registry)
        for place, (_, size) in files.items():
            if folder not in place.parents:
                continue
            child = folder / place.relative_to(folder).parts[0]
            shown = str(child.relative_to(self._inside))
            whole = child == place
            found[shown] = FileInfo(shown, not whole, size if whole else None)
        return [found[name] for name in sorted(found)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        place = self._inside / remote_file_path
        with _registry() as registry:
            files = self._files(registry)
            if place not in files:
                raise MlflowException.invalid_parameter_value(
                    f"run {self._run} has logged no {remote_file_path[:200]} at fusery://{self._task}"
                )
            adapter, _ = files[place]
            folder = registry.adapters.folder(adapter.name, format=adapter.format)
            shutil.copyfile(folder / place.name, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Refuse: what was registered stays on record."""
        raise MlflowException.invalid_parameter_value(
            "adapters are not deleted, they are withdrawn: fusery yank"
        )

    def _files(self, registry: Registry) -> dict[PurePosixPath, tuple[AdapterDetails, int]]:
        """Return the files of the adapters that the run has logged, by their paths among its artifacts."""
        from ..errors import UnknownReferenceError

        try:
            adapters = registry.adapters.list(task=self._task)
        except UnknownReferenceError:
            return {}  # nothing was ever logged there
        found = {}
        for adapter in adapters:
            path = adapter.tags.get(f"{_TAG}{self._run}")
            if path is None:
                continue
            details = registry.adapters.show(adapter.name)
            for file in details.files:
                found[PurePosixPath(path) / file.path] = (details, file.size)
        return found


def _registry() -> Registry:
    """Open the registry of the environment, for one call: MLflow calls from several threads."""
    from ..api.registry import Registry

    return Registry.open()
