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
from fusery.storage.plaintext import is_keepable

from ..adapters.files import CHECKPOINT, CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..errors import BadInputError
from ..training.record import RecordedPoint, RunRecord

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

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRETS = frozenset(
    [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "credential",
        "credentials",
        "apikey",
        "accesskey",
        "token",
        "tok",
    ]
)
_KEYS = frozenset({"api", "access", "secret", "private"})
_OF_A_TOKENIZER = frozenset(
    [
        "pad",
        "eos",
        "bos",
        "unk",
        "sep",
        "cls",
        "mask",
        "image",
        "video",
        "audio",
        "start",
        "end",
        "stop",
        "special",
        "boi",
        "eoi",
        "new",
        "next",
        "first",
        "last",
    ]
)
"""What stands before `token` in the name of one that a tokenizer has."""

_LONGEST = 10_000
"""Characters of a text among a run's parameters."""

_DEEPEST = 20
"""Levels of lists and objects among a run's parameters."""

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


def is_secret(name: str) -> bool:
    """Tell whether a parameter is called like a secret: `hub_token`, `openaiApiKey`; `pad_token` and `max_tokens` are none."""
    words = [word.casefold() for word in _WORDS.findall(name)]
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "key":
        return before in _KEYS
    return words[-1] in _SECRETS and not (words[-1] in ("token", "tok") and before in _OF_A_TOKENIZER)


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's parameters as they can be kept: without the values of secrets, and without what no record keeps."""
    found = {}
    for name, value in given.items():
        key = str(name)
        if is_keepable(key) and len(key) <= TEXT:
            found[key] = _kept(key, value, _DEEPEST)
    return found


def _kept(name: str, value: Any, levels: int) -> Any:
    if is_secret(name):
        return "***"
    if isinstance(value, Mapping):
        return _inner(value, levels) if levels else None
    if isinstance(value, list | tuple):
        return _items(value, levels) if levels else None
    if isinstance(value, str):
        return value if len(value) <= _LONGEST and is_keepable(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    return value if value is None or isinstance(value, bool | float) else str(value)[:TEXT]


def _inner(value: Mapping[Any, Any], levels: int) -> dict[str, Any]:
    names = ((str(key), each) for key, each in value.items())
    return {key: _kept(key, each, levels - 1) for key, each in names if is_keepable(key) and len(key) <= TEXT}


def _items(value: Sequence[Any], levels: int) -> list[Any]:
    """Return the items of a list; what follows an option called like a secret, or stands behind its `=`, is one."""
    found: list[Any] = []
    hidden = False
    for each in value:
        option = each if isinstance(each, str) and each.startswith("-") else ""
        name, equals, _ = option.partition("=")
        if hidden and not option:
            found.append("***")
        elif equals and is_secret(name):
            found.append(f"{name}=***")
        else:
            found.append(_kept("", each, levels - 1))
        hidden = bool(option) and not equals and is_secret(name)
    return found


def curve_of(run: str, points: Mapping[int, Mapping[str, float]]) -> list[RecordedPoint]:
    """Return a run's points, by step, to what was measured there; those that have no loss are left out.

    Raises:
        BadInputError: there are absurdly many.
    """
    if len(points) > MOST_POINTS:
        raise BadInputError(
            f"run {run} has {len(points):,} points", hint=f"at most {MOST_POINTS:,} are taken"
        )
    return [
        RecordedPoint.model_validate({"iteration": step, **values})
        for step, values in sorted(points.items())
        if values.keys() & {"train_loss", "val_loss"}
    ]


def is_inside(path: str) -> bool:
    """Tell whether a path that a tracker gives stays below the folder that it is of, and is its only spelling."""
    plain = path == str(PurePosixPath(path)) and "\\" not in path and is_keepable(path)
    return plain and not path.startswith("/") and ".." not in path.split("/") and path != "."


def moved_in(
    place: Path,
    put: Callable[[Path], Path],
    missing: str,
    *,
    size: int | None,
    digest: Callable[[Path], bool],
) -> None:
    """Have a tracker's client put a file into a folder of its own, and move it to its place.

    Args:
        place: where the file is to be.
        put: puts it somewhere below a folder, and says where.
        missing: the sentence, if that is not the file that the tracker has listed.
        size: that it is listed with; None if it is not said.
        digest: tells whether a file's bytes are those that are listed.

    Raises:
        BadInputError: with that sentence.
    """
    with TemporaryDirectory(dir=place.parent, prefix=".fetched-") as scratch:
        fetched = put(Path(scratch)).resolve()
        inside = fetched.is_relative_to(Path(scratch).resolve()) and fetched.is_file()
        if not inside or size not in (None, fetched.stat().st_size) or not digest(fetched):
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
