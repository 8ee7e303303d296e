"""A run as a tracker keeps it, and the adapters among its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..training.record import RunRecord
from ..training.trainer_folder import CHECKPOINT

_BEST = "best"


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
    """

    id: str
    name: str
    project: str
    record: RunRecord
    metrics: Mapping[str, float]
    files: Mapping[str, int | None]
    fetch: Callable[[str, Path], None]


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
    """Return the adapters of a run, by path.  Its checkpoints are one: the run's output folder."""
    folders: dict[str, dict[str, str]] = {}
    for path in run.files:
        place = PurePosixPath(path)
        folders.setdefault(_text(place.parent), {})[place.name] = path
    adapters = {
        folder: names
        for folder, names in folders.items()
        if CONFIG in names and not names.keys().isdisjoint((WEIGHTS, PEFT_WEIGHTS))
    }
    found: dict[str, TrackedAdapter] = {}
    checkpoints = sorted(folder for folder in adapters if _is_checkpoint(folder))
    output = _text(_common([PurePosixPath(folder).parent for folder in checkpoints]))
    for folder in checkpoints:
        whole = found.setdefault(output, TrackedAdapter(output, dict(folders.get(output, {}))))
        whole.files.update(
            (f"{PurePosixPath(folder).name}/{name}", path) for name, path in adapters[folder].items()
        )
    for folder, names in adapters.items():
        if folder not in checkpoints:
            found.setdefault(folder, TrackedAdapter(folder, dict(names)))
    return [found[path] for path in sorted(found)]


def _is_checkpoint(folder: str) -> bool:
    name = PurePosixPath(folder).name
    return name == _BEST or CHECKPOINT.fullmatch(name) is not None


def _common(places: list[PurePosixPath]) -> PurePosixPath:
    """Return the folder that all of them are in, or are."""
    for ancestor in _upwards(places[0]) if places else ():
        if all(ancestor in _upwards(place) for place in places):
            return ancestor
    return PurePosixPath()


def _upwards(place: PurePosixPath) -> Iterator[PurePosixPath]:
    yield place
    yield from place.parents


def _text(place: PurePosixPath) -> str:
    return "" if place == PurePosixPath() else str(place)
