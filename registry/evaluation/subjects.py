"""What is measured: the base, the adapter on it, several adapters on it, and the fused model in each precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..record import Record, described

Kind = Literal["base", "adapter", "resident", "fused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Record):
    """What a fused model holds of what its adapter learned."""

    verdict: str = described("`PASS`, `DEGRADED` or `LOST`")
    retained: float | None = described(
        "share of the update that is in the fused weights; None if there is no update"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FormCost(Record):
    """What one form of an adapter costs: medians over the rounds, None where it could not be measured."""

    kind: Kind = described(
        "`base`; `adapter`: base with the adapter put on; `resident`: the same with more adapters in memory; `fused`"
    )
    label: str = described("its name")
    precision: str | None = described("precision of a fused model, in words")
    fidelity: Held | None = described("fidelity of a fused model")
    adapters: int = described("how many are in memory")
    bytes: int = described("size in bytes of all weights that it takes")
    error: str | None = described("why it could not be measured, in one sentence")
    load_seconds: float | None = described("until the model is in memory")
    first_token_seconds: float | None = described("until the first token is there")
    tokens_per_second: float | None = described("that are written")
    peak_bytes: float | None = described("the most memory that its process took")


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to measure.

    Attributes:
        kind: `base`; `adapter`: base with the adapter put on; `resident`: the same with more adapters in memory; `fused`.
        label: for the table.
        model: folder of the base or the fused model.
        size: bytes of all weights that it takes.
        adapters: folders of the adapters in memory, the first one on.
        precision: of a fused model, in words.
        fidelity: of a fused model.
    """

    kind: Kind
    label: str
    model: Path
    size: int
    adapters: tuple[Path, ...] = ()
    precision: str | None = None
    fidelity: Held | None = None


@dataclass(slots=True)
class Row:
    """A subject and what was measured of it, one number for each round.

    Attributes:
        subject: what.
        rounds: documents of the worker.
        error: why it could not be measured, in one sentence.
    """

    subject: Subject
    rounds: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def cost(self) -> FormCost:
        """Return medians over the rounds."""
        return FormCost(
            kind=self.subject.kind,
            label=self.subject.label,
            precision=self.subject.precision,
            fidelity=self.subject.fidelity,
            adapters=len(self.subject.adapters),
            bytes=self.subject.size,
            error=self.error,
            load_seconds=self._median("load_seconds"),
            first_token_seconds=self._median("first_token_seconds"),
            tokens_per_second=self._median("tokens_per_second"),
            peak_bytes=self._median("peak_bytes"),
        )

    def _median(self, name: str) -> float | None:
        import statistics

        values: Sequence[float] = [each[name] for each in self.rounds]
        return statistics.median(values) if values else None
