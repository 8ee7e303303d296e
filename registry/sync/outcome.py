"""What a sync did, or would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..record import Record, described
from .plan import CHANGES, UNMET, Act


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStep(Record):
    """What was done about one adapter, or would be."""

    act: Act = described(
        "`load`, `replace`, `unload`, `end`, `leave`, `keep`, `blocked` or `withheld`; see `fusery.registry.sync.plan`"
    )
    adapter: str = described("its name")
    digest: str | None = described("digest of the adapter; None where it is not known here")
    references: tuple[str, ...] = described("what was asked for and means it")
    reason: str | None = described("why it is to be done, or was not; None where there is nothing to say")
    done: bool = described("it was done; False where it failed, or was only looked at")

    @property
    def is_drift(self) -> bool:
        """What is there is not what should be there, or not what is on record."""
        return self.act in CHANGES or self.act in UNMET


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced(Record):
    """What a place has of what it should have.

    Attributes:
        drift: something is otherwise than it should be: before anything was done, or still.
        ok: nothing is left to be done.
    """

    place: str = described("as deployments call it")
    base: str | None = described("what the adapters stand on; None where nothing is wanted")
    steps: tuple[SyncStep, ...] = described("one for each adapter that is wanted, was brought, or is there")
    KEYS: ClassVar[tuple[str, ...]] = ("place", "base", "steps", "drift", "ok")

    @property
    def drift(self) -> bool:
        """Something was otherwise than it should be."""
        return any(step.is_drift for step in self.steps)

    @property
    def ok(self) -> bool:
        """All is as it should be now."""
        return not self.undone

    @property
    def undone(self) -> tuple[SyncStep, ...]:
        """What is still otherwise than it should be."""
        return tuple(step for step in self.steps if step.is_drift and not step.done)
