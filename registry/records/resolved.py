"""The record of a resolved reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..record import Record


@dataclass(frozen=True, slots=True)
class Resolved(Record):
    """The adapter, base model or fused model of a reference.

    Attributes:
        kind: `adapter`, `base` or `fused`.
        name: name of an adapter or base model; key of a fused model.
        digest: digest of its manifest.
        yanked: whether it is a yanked adapter.
    """

    kind: Literal["adapter", "base", "fused"]
    name: str
    digest: str
    yanked: bool = False
