"""Adapters that have come and are about to be recorded: to the next of them they are registered already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """An adapter on the same base and of the same task, which is recorded with those that come after it.

    Attributes:
        name: what it is called.
        task: of both.
        version: its number.
        digest: of its manifest.
        weights: digests of its weights in mlx-lm's form, as it came and as a rendering.
        method: as it is recorded.
        scale: as it is recorded.
        path: its weights, None where it came in another form.
    """

    name: str
    task: str
    version: int
    digest: str
    weights: frozenset[str]
    method: str
    scale: float | None
    path: Path | None
