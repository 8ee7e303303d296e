"""A run as a tracker keeps it, and the adapters among its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fusery.storage.errors import FuseryError

from ..adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..training.record import RunRecord
from ..training.trainer_folder import CHECKPOINT

_BEST = "best"
_OF_CALLBACK = re.compile(r"(?:(?P<output>.*)/)?(?P<name>checkpoint-[0-9]+)/artifacts/(?P=name)")
"""A checkpoint as transformers' own callback for MLflow logs it: a model of its own for each."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker knows of a run.

    Attributes:
        id: the tracker's name for it.
        name: for people.
        project: what it belongs to: an experiment of MLflow.
        record: when it ran, its arguments, data, commit and curve.
        metrics: the last value of each.
        files: its artifacts, path to size in bytes; None where the tracker does not say.
        fetch: puts one of them at a place on this machine.
        problem: why the tracker does not say what it has; then there are no files.
    """

    id: str
    name: str
    project: str
    record: RunRecord
    metrics: Mapping[str, float]
    files: Mapping[str, int | None]
    fetch: Callable[[str, Path], None]
    problem: FuseryError | None = None


@dataclass(frozen=True, slots=True)
class TrackedAdapter:
    """An adapter, or a trainer's output folder with its checkpoints, among the artifacts of a run.

    Attributes:
        path: of the folder among the artifacts; empty for all of them.
        files: its files, by their path in the folder, to their path among the artifacts.
    """

    path: str
    files: dict[str, str] = field(default_factory=dict)


def tracked_adapters(run: TrackedRun) -> list[TrackedAdapter]:
    """Return the adapters of a run, by path; the checkpoints in one folder are one: a trainer's output folder."""
    folders: dict[str, dict[str, str]] = {}
    for path in run.files:
        place = PurePosixPath(path)
        folders.setdefault(_text(place.parent), {})[place.name] = path
    found: dict[str, TrackedAdapter] = {}
    for folder, names in folders.items():
        if CONFIG not in names or names.keys().isdisjoint((WEIGHTS, PEFT_WEIGHTS)):
            continue
        if not _is_checkpoint(folder):
            found.setdefault(folder, TrackedAdapter(folder)).files.update(names)
            continue
        output, name = _output(folder), PurePosixPath(folder).name
        whole = found.setdefault(output, TrackedAdapter(output))
        whole.files.update(folders.get(output, {}))
        whole.files.update((f"{name}/{each}", path) for each, path in names.items())
    return [found[path] for path in sorted(found)]


def _output(folder: str) -> str:
    """Return the folder that a checkpoint is of."""
    match = _OF_CALLBACK.fullmatch(folder)
    return (match["output"] or "") if match else _text(PurePosixPath(folder).parent)


def _is_checkpoint(folder: str) -> bool:
    name = PurePosixPath(folder).name
    return name == _BEST or CHECKPOINT.fullmatch(name) is not None


def _text(place: PurePosixPath) -> str:
    return "" if place == PurePosixPath() else str(place)
