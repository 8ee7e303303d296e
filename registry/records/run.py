"""The record of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ..record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint(Record):
    """What was measured at one iteration; None if it was not.

    Attributes:
        iteration: counted from 1.
        train_loss: mean over the steps since the point before.
        val_loss: over the validation set.
        learning_rate: of the step.
    """

    iteration: int
    train_loss: float | None
    val_loss: float | None
    learning_rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """An iteration and its validation loss.

    Attributes:
        iteration: counted from 1.
        val_loss: over the validation set.
    """

    iteration: int | None
    val_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Record):
    """The state of the code that trained.

    Attributes:
        commit: its identifier in git.
        dirty: there were changes beside it.
    """

    commit: str
    dirty: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(Record):
    """Where an adapter's weights are from.

    Attributes:
        checkpoint: the iteration that was registered.
        chosen: how it was: `best`, `last` or by its number.
        best: the iteration with the lowest validation loss.
        last: the last one that was validated.
        state: how the run ended, as far as that is known.
        source: what says so.
        started_at: when it began.
        seconds: that it took.
        trained_tokens: that it was trained on.
        peak_memory: bytes.
        git: the code.
        machine: processor, cores, memory and system.
        versions: of the packages.
        arguments: of the trainer.
        dataset_files: path, size and digest of each file of the data.
    """

    checkpoint: int | None
    chosen: str
    best: Measured | None
    last: Measured
    state: str
    source: str
    started_at: datetime | None
    seconds: float | None
    trained_tokens: int | None
    peak_memory: int | None
    git: Commit | None
    machine: Mapping[str, object] | None
    versions: Mapping[str, str] | None
    arguments: Mapping[str, object] | None
    dataset_files: tuple[Mapping[str, object], ...] | None
