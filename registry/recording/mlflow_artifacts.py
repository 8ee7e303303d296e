"""MLflow's artifacts at `fusery://TASK` are adapters of the environment's registry (entry point `mlflow.artifact_repository`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from fusery.storage.errors import FuseryError
from fusery.storage.secrets import masked

if TYPE_CHECKING:
    from ..api.registry import Registry
    from ..records.adapter_details import AdapterDetails

_SCHEME = "fusery://"
_TAG = "mlflow.run."
_refusal = MlflowException.invalid_parameter_value
_BETWEEN = "|"  # separates the paths of one adapter


class FuseryArtifactRepository(ArtifactRepository):
    """Registers the adapters that a run logs, with the tag `mlflow.run.ID`, and returns their files; nothing else can be logged."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        parts = PurePosixPath(artifact_uri.removeprefix(_SCHEME)).parts
        whole = artifact_uri.startswith(_SCHEME) and len(parts) > 2 and "artifacts" in parts[2:]
        if not whole or ".." in parts or "@" in parts[0]:
            hint = 'make the experiment with artifact_location="fusery://TASK"'
            raise _refusal(f"{masked(artifact_uri)[:200]} is not fusery://TASK/RUN/artifacts: {hint}")
        at = len(parts) - 1 - parts[::-1].index("artifacts")
        self._task, self._run = parts[0], parts[at - 1]
        self._inside = PurePosixPath(*parts[at + 1 :])

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Refuse a single file: an adapter is a folder."""
        hint = "log the adapter's folder with mlflow.log_artifacts, and other files elsewhere"
        raise _refusal(f"{Path(local_file).name[:200]} is not an adapter of fusery://{self._task}: {hint}")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Register an adapter's folder, or the best checkpoint of a run's, as the next version of the task."""
        from ..admission.submission import checked_tags  # MLflow loads this module whenever it starts

        path = str(self._place(artifact_path))
        key = f"{_TAG}{self._run}"
        with _mlflow_errors():
            checked_tags({key: path})  # what cannot be said is refused before anything is registered
        with _registry() as registry:
            # An adapter of another run gets a second tag, one of this run a second path.
            done = registry.adapters.register(local_dir, task=self._task)
            paths = _paths(done.tags.get(key, ""))
            if path not in paths:
                registry.adapters.amend(done.name, tags={key: _BETWEEN.join([*paths, path])})

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the files and folders directly under a path of the run."""
        folder = self._place(path)
        infos: dict[str, FileInfo] = {}
        with _registry() as registry:
            files = self._files(registry)
        for place, (_, size) in files.items():
            if folder not in place.parents:
                continue
            child = folder / place.relative_to(folder).parts[0]
            shown = str(child.relative_to(self._inside))
            whole = child == place
            infos[shown] = FileInfo(shown, not whole, size if whole else None)
        return [infos[name] for name in sorted(infos)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        place = self._place(remote_file_path)
        with _registry() as registry:
            files = self._files(registry)
            if place not in files:
                raise _refusal(f"run {self._run} has no {remote_file_path[:200]} at fusery://{self._task}")
            adapter, _ = files[place]
            folder = registry.adapters.folder(adapter.name, format=adapter.format)
            shutil.copyfile(folder / place.name, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Refuse: what was registered stays on record."""
        raise _refusal("adapters are not deleted, they are withdrawn: fusery yank")

    def _files(self, registry: Registry) -> dict[PurePosixPath, tuple[AdapterDetails, int]]:
        """Return the files of the adapters that the run has logged, by their paths among its artifacts."""
        from ..errors import UnknownReferenceError

        try:
            adapters = registry.adapters.list(task=self._task, sort="version")
        except UnknownReferenceError:
            return {}  # nothing was ever logged there
        detailses: dict[PurePosixPath, AdapterDetails] = {}
        for adapter in adapters:
            for path in _paths(adapter.tags.get(f"{_TAG}{self._run}", "")):
                details = registry.adapters.show(adapter.name)
                # Of several adapters at one path the last one counts, as with files.
                detailses[PurePosixPath(path)] = details
        return {
            path / file.path: (details, file.size)
            for path, details in detailses.items()
            for file in details.files
        }

    def _place(self, path: str | None) -> PurePosixPath:
        """Return a path among the artifacts; one that leads out of them, or that a tag cannot hold, is refused."""
        place = PurePosixPath(path or "")
        if place.is_absolute() or ".." in place.parts or _BETWEEN in str(place):
            raise _refusal(f"{str(path)[:200]!r} is no path among a run's artifacts")
        return self._inside / place


def _paths(tag: str) -> list[str]:
    return tag.split(_BETWEEN) if tag else []


@contextmanager
def _registry() -> Iterator[Registry]:
    """Open the registry of the environment, for one call: MLflow calls from several threads."""
    from ..api.registry import Registry

    with _mlflow_errors(), Registry.open() as registry:
        yield registry


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    try:
        yield
    except FuseryError as error:
        hint = f". Hint: {error.hint}" if error.hint else ""
        raise _refusal(f"{error.message}{hint}") from error
