"""What a user says about an adapter folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Submission:
    """What a user says about an adapter folder; None where nothing was said."""

    base: str
    task: str | None = None
    version: int | None = None
    date: str | None = None
    alpha: float | None = None
    val_loss: float | None = None
    dataset: str | None = None
    examples: int | None = None
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
