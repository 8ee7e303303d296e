"""What came of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..record import Record
from ..records.adapter import Registered
from ..training.record import State


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult(Record):
    """A training run that is over.

    Attributes:
        folder: that the trainer wrote to.
        state: how the run ended.
        seconds: that it took.
        registered: the adapter that it left, if it was to be registered.
    """

    folder: Path
    state: State
    seconds: float
    registered: Registered | None
