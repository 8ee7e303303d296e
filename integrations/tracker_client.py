"""Reading a tracker with its own client: runs, files, parameters and curves, without secrets and within limits."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard, TypeVar

from fusery.registry.errors import BadInputError
from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun
from fusery.registry.registration.training_record import (
    MOST_POINTS,
    RecordedData,
    RecordedGit,
    RecordedPoint,
    RunRecord,
)
from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import is_keepable
from fusery.storage.processes import environment
from fusery.storage.secrets import redact, without_secrets

LOSSES: Mapping[str, Sequence[str]] = {
    "train_loss": ("loss", "train/loss", "train_loss"),
    "val_loss": ("eval_loss", "eval/loss", "val_loss", "valid_loss", "validation_loss"),
    "learning_rate": ("learning_rate", "train/learning_rate", "lr"),
}
"""Names of metrics in transformers, mlx-lm and similar trainers; the first that was logged is used."""

MOST_RUNS = 10_000
_TEXT = 500  # maximum length of a name
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_FINGERPRINT = re.compile(r"[0-9A-Za-z]{1,64}")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRETS = frozenset({
    "password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials", "apikey",
    "accesskey", "token", "tok",
})  # fmt: skip
_KEYS = frozenset({"api", "access", "secret", "private"})
_OF_A_TOKENIZER = frozenset({
    "pad", "eos", "bos", "unk", "sep", "cls", "mask", "image", "video", "audio", "start", "end", "stop",
    "special", "boi", "eoi", "new", "next", "first", "last",
})  # fmt: skip
"""Words before `token` in the name of a tokenizer's token."""

_LONGEST = 10_000  # maximum length of a text parameter
_DEEPEST = 20  # maximum depth of lists and objects in parameters
_MESSAGE = 200  # characters of an error's message


def is_secret(name: str) -> bool:
    """Return whether a parameter's name is that of a secret, such as `hub_token` or `openaiApiKey`, but not `pad_token`."""
    words = [word.casefold() for word in _WORDS.findall(name)]
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "key":
        return before in _KEYS
    return words[-1] in _SECRETS and not (words[-1] in ("token", "tok") and before in _OF_A_TOKENIZER)


def parameters(given: Mapping[Any, Any], levels: int = _DEEPEST) -> Mapping[str, object]:
    """Return a run's parameters as they can be recorded: without the values of secrets, and without other values than JSON's."""
    names = ((str(key), value) for key, value in given.items())
    return {key: _kept(key, value, levels) for key, value in names if is_keepable(key) and len(key) <= _TEXT}


def _kept(name: str, value: Any, levels: int) -> Any:
    if is_secret(name):
        return "***"
    if isinstance(value, Mapping):
        return parameters(value, levels - 1) if levels else None
    if isinstance(value, list | tuple):
        return _items(value, levels) if levels else None
    if isinstance(value, str):
        return value if len(value) <= _LONGEST and is_keepable(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else None
    return value if value is None or isinstance(value, bool | float) else str(value)[:_TEXT]


def _items(value: Sequence[Any], levels: int) -> list[Any]:
    """Return the items of a list without the values of secret options: `--hub_token X` and `--hub_token=X`."""
    arguments: list[Any] = []
    hidden = False
    for argument in value:
        option = argument if isinstance(argument, str) and argument.startswith("-") else ""
        name, equals, _ = option.partition("=")
        if hidden and not option:
            arguments.append("***")
        elif equals and is_secret(name):
            arguments.append(f"{name}=***")
        else:
            arguments.append(_kept("", argument, levels - 1))
        hidden = bool(option) and not equals and is_secret(name)
    return arguments


def curve_of(
    run: str, metrics: Container[str], history: Callable[[str], Iterable[tuple[object, object]]]
) -> list[RecordedPoint]:
    """Return a run's points that have a loss, by step."""
    points: dict[int, dict[str, float]] = {}
    for loss, names in LOSSES.items():
        logged = next((name for name in names if name in metrics), None)
        for step, value in history(logged) if logged else ():
            if is_number(step) and is_number(value) and 0 <= step < 2**31:
                points.setdefault(int(step), {})[loss] = float(value)
    if len(points) > MOST_POINTS:
        hint = f"at most {MOST_POINTS:,} are allowed"
        raise BadInputError(f"run {run} has {len(points):,} points", hint=hint)
    return [
        RecordedPoint.model_validate({"iteration": step, **values})
        for step, values in sorted(points.items())
        if values.keys() & {"train_loss", "val_loss"}
    ]


def git_of(commit: str, *, dirty: bool) -> RecordedGit | None:
    """Return a run's commit, if it is one."""
    return RecordedGit(commit=commit, dirty=dirty) if _COMMIT.fullmatch(commit) else None


def dataset_of(name: str, digest: str) -> RecordedData:
    """Return a run's dataset; its digest only if that can be recorded."""
    return RecordedData(name=name[:_TEXT], fingerprint=digest if _FINGERPRINT.fullmatch(digest) else None)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


T = TypeVar("T")


def at_most(items: Iterable[T], most: int, owner: str, what: str, hint: str) -> Iterator[T]:
    """Yield the items of a list of a server, which may have no end."""
    for number, item in enumerate(items):
        if number == most:
            raise BadInputError(f"{owner} over {most:,} {what}", hint=hint)
        yield item


@dataclass(frozen=True, slots=True)
class TrackedFile:
    """A file of a run."""

    size: int | None  # in bytes; None if it is unknown
    download: Callable[[Path], Path]  # puts it somewhere below a folder, and returns where
    # whether downloaded bytes have the digest that the tracker lists
    is_listed: Callable[[Path], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class Client:
    """A tracker's own client, as an import uses it."""

    tracker: str
    settings: Mapping[str, str]  # variables of the environment that it gets, unless the user sets them
    loggers: Sequence[str]  # those that report errors only
    hint: str  # what to check when it fails

    @contextmanager
    def quiet(self, **settings: str) -> Iterator[None]:
        """Apply the settings while the client is in use: the process may be one that logs to the tracker itself."""
        changed = {name: value for name, value in self.settings.items() if name not in os.environ}
        levels = {logger: logger.level for logger in map(logging.getLogger, self.loggers)}
        for logger in levels:
            logger.setLevel(logging.ERROR)
        try:
            with environment({**changed, **settings}):
                yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)

    @contextmanager
    def readable(self, what: str) -> Iterator[None]:
        """Convert errors of the client and its plugins, which may be of any type; keep secrets out of their text."""
        try:
            yield
        except FuseryError:
            raise
        except Exception as error:  # noqa: BLE001 -- clients raise any type; each error is reported and ends the import
            message = redact(str(error)).partition("\n")[0][:_MESSAGE]
            why = f"{type(error).__name__}{f': {message}' if message else ''}"
            raise BadInputError(f"{what} cannot be read: {why}", hint=self.hint) from without_secrets(error)

    def run(
        self,
        number: str,
        name: str,
        project: str,
        read: Callable[[dict[str, TrackedFile]], tuple[RunRecord, Mapping[str, float]]],
    ) -> TrackedRun:
        """Return a run; if it cannot be read, it has a problem, and does not prevent others from import."""
        files: dict[str, TrackedFile] = {}

        def fetch(path: str, place: Path) -> None:
            file = files[path]
            with (
                self.quiet(),
                self.readable(f"{path[:200]} of {self.tracker}'s run {number[:60]}"),
                TemporaryDirectory(dir=place.parent, prefix=".fetched-") as scratch,
            ):
                fetched = file.download(Path(scratch)).resolve()
                inside = fetched.is_relative_to(Path(scratch).resolve()) and fetched.is_file()
                same_size = inside and file.size in (None, fetched.stat().st_size)
                if not (same_size and file.is_listed(fetched)):
                    message = f"{path[:200]} from {self.tracker} is not the file that it lists"
                    raise BadInputError(message, hint="look at the run in the tracker's own pages")
                shutil.move(fetched, place)

        try:
            with self.readable(f"{self.tracker}'s run {number[:60]}"):
                record, metrics = read(files)
        except BadInputError as problem:
            return TrackedRun(number, name[:_TEXT], project, UNKNOWN, {}, {}, fetch, problem)
        sizes = {path: file.size for path, file in files.items()}
        return TrackedRun(number, name[:_TEXT], project, record, metrics, sizes, fetch)
