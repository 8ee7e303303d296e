"""What is measured: the base, the adapter on it, several adapters on it, and the fused model in each precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["base", "adapter", "resident", "fused"]


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
        fidelity: of a fused model: `verdict` and `retained`.
    """

    kind: Kind
    label: str
    model: Path
    size: int
    adapters: tuple[Path, ...] = ()
    precision: str | None = None
    fidelity: dict[str, Any] | None = None


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

    def to_dict(self) -> dict[str, Any]:
        """Return medians over the rounds as plain JSON values; times in seconds, memory in bytes."""
        return {
            "kind": self.subject.kind,
            "label": self.subject.label,
            "precision": self.subject.precision,
            "fidelity": self.subject.fidelity,
            "adapters": len(self.subject.adapters),
            "bytes": self.subject.size,
            "error": self.error,
            **{name: self._median(name) for name in FIGURES},
        }

    def _median(self, name: str) -> float | None:
        import statistics

        values: Sequence[float] = [each[name] for each in self.rounds]
        return statistics.median(values) if values else None


FIGURES = ("load_seconds", "first_token_seconds", "tokens_per_second", "peak_bytes")
"""What a worker measures and a table shows."""
