"""What a bench found: the costs of each form of an adapter on a machine, and what to ship."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..record import Record, described
from .subjects import FormCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Record):
    """What the numbers of a measurement depend on."""

    system: str = described("system of the machine, such as `Linux`")
    processor: str = described("what it calls itself")
    cores: int | None = described("that the process may use; None if nobody knows")
    mlx: str = described("version of the package")
    mlx_lm: str = described("likewise")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport(Record):
    """What was measured, and what follows from it.

    Attributes:
        plot: the picture of it; None if none was asked for.
    """

    adapter: str = described("its name")
    base: str = described("name of its base")
    machine: Machine = described("on which it was measured")
    prompt_tokens: int = described("length of the prompt")
    tokens: int = described("how many were written")
    runs: int = described("rounds")
    rows: tuple[FormCost, ...] = described("each form")
    choice: str | None = described("label of the form to ship; None if nothing could be measured")
    reasons: tuple[str, ...] = described("why, in sentences")
    at: datetime = described("when it was measured")
    plot: Path | None = None
