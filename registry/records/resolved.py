"""What a reference means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..record import Record


@dataclass(frozen=True, slots=True)
class Resolved(Record):
    """An adapter, a base model or a fused model that a reference means.

    Attributes:
        kind: `adapter`, `base` or `fused`.
        name: of an adapter or base; of a fused model its key.
        digest: of its files.
        yanked: an adapter is withdrawn.
    """

    kind: Literal["adapter", "base", "fused"]
    name: str
    digest: str
    yanked: bool = False
