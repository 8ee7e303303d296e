"""A run as a tracker keeps it, and the adapters among its files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from fusery.storage.errors import FuseryError

from ..adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..errors import BadInputError
from ..training.record import RunRecord
from ..training.trainer_folder import CHECKPOINT

LOSSES: Mapping[str, Sequence[str]] = {
    "train_loss": ("loss", "train/loss", "train_loss"),
    "val_loss": ("eval_loss", "eval/loss", "val_loss", "valid_loss", "validation_loss"),
    "learning_rate": ("learning_rate", "train/learning_rate", "lr"),
}
"""What trainers call a loss: transformers', mlx-lm's, and those that follow them.  The first that was measured counts."""

UNKNOWN = RunRecord(started_at=datetime.fromtimestamp(0, UTC))
"""The record of a run that its tracker does not tell about."""

MOST_RUNS = 10_000
MOST_POINTS = 200_000
TEXT = 500
"""Characters of a name."""

COMMIT = re.compile(r"[0-9a-f]{40,64}")
FINGERPRINT = re.compile(r"[0-9A-Za-z]{1,64}")

_SECRET = re.compile(
    r"(?i)(?:.*[_.-])?(?:passw(?:or)?d|passphrase|secret|(?:api|access|secret|private)_?key|(?:auth|access|hub|hf|api|bearer)_?token)|token|tok"
)
"""Names of parameters whose values are secrets; `pad_token` and `max_tokens` are none."""

_BEST = "best"
_OF_CALLBACK = re.compile(r"(?:(?P<output>.*)/)?(?P<name>checkpoint-[0-9]+)/artifacts/(?P=name)")
"""A checkpoint as transformers' own callback for MLflow logs it: a model of its own for each."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker knows of a run.

    Attributes:
        id: the tracker's name for it.
        name: for people.
        project: what it belongs to: an experiment of MLflow, a project of W&B.
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


def without_secret(name: str, value: Any) -> Any:
    """Return the value of a parameter; what is called like a secret, in it too, loses its own."""
    if _SECRET.fullmatch(name):
        return "***"
    if isinstance(value, Mapping):
        return {str(key): without_secret(str(key), each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_secret("", each) for each in value]
    return value


def is_inside(path: str) -> bool:
    """Tell whether a path that a tracker gives stays below the folder that it is of."""
    return not path.startswith("/") and ".." not in path.split("/") and "\\" not in path and "\0" not in path


def moved_in(place: Path, put: Callable[[Path], Path], missing: str) -> None:
    """Have a tracker's client put a file into a folder of its own, and move it to its place.

    Args:
        place: where the file is to be.
        put: puts it somewhere below a folder, and says where.
        missing: the sentence, if that is no file of the folder.

    Raises:
        BadInputError: with that sentence.
    """
    with TemporaryDirectory(dir=place.parent, prefix=".fetched-") as scratch:
        fetched = put(Path(scratch)).resolve()
        if not fetched.is_relative_to(Path(scratch).resolve()) or not fetched.is_file():
            raise BadInputError(missing, hint="look at the run in the tracker's own pages")
        shutil.move(fetched, place)


def _output(folder: str) -> str:
    """Return the folder that a checkpoint is of."""
    match = _OF_CALLBACK.fullmatch(folder)
    return (match["output"] or "") if match else _text(PurePosixPath(folder).parent)


def _is_checkpoint(folder: str) -> bool:
    name = PurePosixPath(folder).name
    return name == _BEST or CHECKPOINT.fullmatch(name) is not None


def _text(place: PurePosixPath) -> str:
    return "" if place == PurePosixPath() else str(place)
