"""A run as a tracker keeps it, and the adapters among its files; plugins and `integrations` read them from trackers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import is_keepable

from ..adapters import CHECKPOINT, CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..registration.training_record import RunRecord

UNKNOWN = RunRecord(started_at=datetime.fromtimestamp(0, UTC))  # record of a run that cannot be read
_BEST = "best"
_OF_CALLBACK = re.compile(r"(?:(?P<output>.*)/)?(?P<name>checkpoint-[0-9]+)/artifacts/(?P=name)")
"""A checkpoint logged by transformers' callback for MLflow, as a separate model."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run of a tracker."""

    id: str
    name: str
    project: str  # its experiment in MLflow, or its project in W&B
    record: RunRecord
    metrics: Mapping[str, float]  # the last value of each
    files: Mapping[str, int | None]  # its artifacts: path to size in bytes, or None if unknown
    fetch: Callable[[str, Path], None]  # downloads an artifact to a path on this machine
    problem: FuseryError | None = None  # why it cannot be read; then there are no files


@dataclass(frozen=True, slots=True)
class TrackedAdapter:
    """An adapter, or a trainer's output folder with its checkpoints, among the artifacts of a run."""

    path: str
    files: dict[str, str] = field(default_factory=dict)


def tracked_adapters(run: TrackedRun) -> list[TrackedAdapter]:
    """Return the adapters of a run by path; checkpoints in one folder are one adapter, a trainer's output folder."""
    folders: dict[str, dict[str, str]] = {}
    for path in run.files:
        place = PurePosixPath(path)
        folders.setdefault(_text(place.parent), {})[place.name] = path
    adapters: dict[str, TrackedAdapter] = {}
    for folder, names in folders.items():
        if CONFIG not in names or names.keys().isdisjoint((WEIGHTS, PEFT_WEIGHTS)):
            continue
        place = PurePosixPath(folder)
        if place.name != _BEST and not CHECKPOINT.fullmatch(place.name):
            adapters.setdefault(folder, TrackedAdapter(folder)).files.update(names)
            continue
        match = _OF_CALLBACK.fullmatch(folder)
        output = (match["output"] or "") if match else _text(place.parent)
        whole = adapters.setdefault(output, TrackedAdapter(output))
        whole.files.update(folders.get(output, {}))
        whole.files.update((f"{place.name}/{file_name}", path) for file_name, path in names.items())
    return [adapters[path] for path in sorted(adapters)]


def is_inside(path: str) -> bool:
    """Return whether a path of a tracker is relative, normalised, and inside the run's folder."""
    plain = path == str(PurePosixPath(path)) and "\\" not in path and is_keepable(path)
    return plain and not path.startswith("/") and ".." not in path.split("/") and path != "."


def _text(place: PurePosixPath) -> str:
    return "" if place == PurePosixPath() else str(place)
