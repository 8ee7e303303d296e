"""What came of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..record import Record, described
from ..records.adapter import Registered
from ..training.record import State


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult(Record):
    """A training run that is over."""

    folder: Path = described("folder that the trainer wrote to")
    state: State = described("how the run ended")
    seconds: float = described("duration in seconds")
    registered: Registered | None = described("the adapter that it left, if it was to be registered")
