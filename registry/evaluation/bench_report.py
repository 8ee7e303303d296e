"""What a bench found: the costs of each form of an adapter on a machine, and what to ship."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..record import Record
from .subjects import FormCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Record):
    """What the numbers of a measurement depend on.

    Attributes:
        system: of the machine, such as `Linux`.
        processor: what it calls itself.
        cores: that the process may use; None if nobody knows.
        mlx: version of the package.
        mlx_lm: likewise.
    """

    system: str
    processor: str
    cores: int | None
    mlx: str
    mlx_lm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport(Record):
    """What was measured, and what follows from it.

    Attributes:
        adapter: its name.
        base: name of its base.
        machine: on which it was measured.
        prompt_tokens: length of the prompt.
        tokens: how many were written.
        runs: rounds.
        rows: each form.
        choice: label of the form to ship; None if nothing could be measured.
        reasons: why, in sentences.
        at: when it was measured.
        plot: the picture of it; None if none was asked for.
    """

    adapter: str
    base: str
    machine: Machine
    prompt_tokens: int
    tokens: int
    runs: int
    rows: tuple[FormCost, ...]
    choice: str | None
    reasons: tuple[str, ...]
    at: datetime
    plot: Path | None = None
