"""The record of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint(Record):
    """What was measured at one iteration; None if it was not."""

    iteration: int = described("counted from 1")
    train_loss: float | None = described("mean over the steps since the point before", title="training loss")
    val_loss: float | None = described("loss on the validation set", title="validation loss")
    learning_rate: float | None = described("learning rate of the step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """An iteration and its validation loss."""

    iteration: int | None = described("counted from 1")
    val_loss: float | None = described("loss on the validation set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Record):
    """The state of the code that trained."""

    commit: str = described("its identifier in git")
    dirty: bool | None = described("there were changes beside it")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(Record):
    """Where an adapter's weights are from."""

    checkpoint: int | None = described("the iteration that was registered")
    chosen: str = described("how it was: `best`, `last` or by its number")
    best: Measured | None = described("the iteration with the lowest validation loss")
    last: Measured = described("the last one that was validated")
    state: str = described("how the run ended, as far as that is known")
    source: str = described("what says so")
    started_at: datetime | None = described("when it began")
    seconds: float | None = described("duration in seconds")
    trained_tokens: int | None = described("number of tokens that it was trained on")
    peak_memory: int | None = described("bytes")
    git: Commit | None = described("the code")
    machine: Mapping[str, object] | None = described("processor, cores, memory and system")
    versions: Mapping[str, str] | None = described("versions of the packages")
    arguments: Mapping[str, object] | None = described("arguments of the trainer")
    dataset_files: tuple[Mapping[str, object], ...] | None = described(
        "path, size and digest of each file of the data"
    )
