"""The measurement and the record of a fuse, looked up together."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from .. import tables
from ..database import events
from ..engine.recipe import Recipe
from ..engine.verdict import (
    CLEAR_FROM,
    DEGRADED,
    LOST,
    MEANINGS,
    PASS,
    QUIET_SHAPED_TO,
    QUIET_TO,
    WHOLE_FROM,
    closeness,
    in_words,
    range_in_words,
    recorded_verdict,
)
from ..records.fused import FusedRecord
from .records import counting
from .request import FuseRequest

if TYPE_CHECKING:
    from ..engine.fidelity import FuseFidelity
    from ..workspace.workspace import Workspace

REFUSED = "fuse.refused"
TRIED = "fuse.tried"  # `auto` measured a format and went on to the next


@dataclass(frozen=True, slots=True)
class MeasuredFuse:
    """The fidelity of a fuse, measured on all rows or on a sample of them."""

    verdict: str
    retained: float | None
    noise: float | None = None
    cosine: float | None = None
    shaped: bool = False
    sampled: bool = False  # then `auto` may pass the format over, and nothing else follows
    at_random: bool = False  # the sample was rounded at random, though a calibration shapes what is written

    @classmethod
    def of(cls, fidelity: FuseFidelity | tables.FusedRow, recipe: Recipe) -> MeasuredFuse:
        """Take the overall figures of a fuse or of a record."""
        shaped = recipe.precision == "mixed" and recipe.calibration is not None
        verdict = recorded_verdict(fidelity.verdict, fidelity.retained, fidelity.noise)
        return cls(verdict, fidelity.retained, fidelity.noise, fidelity.cosine, shaped)

    @classmethod
    def of_sample(cls, fidelity: FuseFidelity, recipe: Recipe, *, at_random: bool = False) -> MeasuredFuse:
        """Take the overall figures of a sample of what a recipe writes."""
        return replace(cls.of(fidelity, recipe), sampled=True, at_random=at_random)

    @property
    def in_words(self) -> str:
        """The verdict with its reason."""
        return in_words(self.verdict, self.retained, self.noise)

    def reason(self, request: FuseRequest) -> str:
        """Return why a request does not take it: the figures, and the limit that they missed."""
        if request.min_fidelity is not None and closeness(self.retained) < request.min_fidelity:
            return f"{self.in_words}; --min-fidelity asks for {range_in_words(request.min_fidelity)}"
        figures = self.in_words.removeprefix(f"{PASS}, ")  # the verdict PASS would be no reason
        return (
            f"{figures}, cosine {self.cosine or 0.0:.2f}; {request.precision} takes {range_in_words(WHOLE_FROM)},"
            f" at most {100 * self._quiet_to:g} % noise and a cosine of at least {CLEAR_FROM:g}"
        )

    def meaning(self, request: FuseRequest) -> str:
        """Return why a request does not take it, without figures."""
        closest = closeness(self.retained)
        if request.min_fidelity is not None and closest < request.min_fidelity:
            return "retains less of the update than --min-fidelity requires"
        if self.verdict != LOST and closest >= WHOLE_FROM and not self.is_quiet:
            return "its rounding errors would also change the answers to unrelated prompts"
        return MEANINGS[LOST if self.verdict == LOST else DEGRADED]

    def passes(self, request: FuseRequest, *, strict: bool, sound: bool = False) -> bool:
        """Tell whether it may be published; `strict` asks for nearly all of the update, `sound` for the verdict PASS."""
        if request.accept_loss and not strict and not sound:
            return True
        if request.min_fidelity is not None and closeness(self.retained) < request.min_fidelity:
            return False
        if not strict:
            return self.verdict == PASS if sound else self.verdict != LOST
        clear = (self.cosine is None or self.cosine >= CLEAR_FROM) and closeness(self.retained) >= WHOLE_FROM
        return self.verdict == PASS and self.is_quiet and clear

    @property
    def is_quiet(self) -> bool:
        """`auto` bears its noise."""
        return (self.noise or 0.0) <= self._quiet_to

    @property
    def _quiet_to(self) -> float:
        return QUIET_SHAPED_TO if self.shaped else QUIET_TO


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The measurement and the record of a key."""

    measured: MeasuredFuse | None = None  # as recorded, or as logged for a refused attempt
    view: FusedRecord | None = None  # None without a record, or if it does not pass the request

    @property
    def settled(self) -> MeasuredFuse | None:
        """The measurement, if all rows were measured: only that can refuse a request."""
        return None if self.measured is None or self.measured.sampled else self.measured

    @property
    def own(self) -> FusedRecord | None:
        """The record, if it was made here."""
        return self.view if self.view is not None and self.view.foreign is None else None

    @property
    def published(self) -> FusedRecord | None:
        """The record, if it was made here and its files are in the store."""
        return self.own if self.own is not None and self.own.published else None

    @property
    def claim(self) -> FusedRecord | None:
        """The record, if it is the accepted claim of another registry."""
        return self.view if self.own is None else None


def recorded_measurement(workspace: Workspace, key: Digest) -> KeyRecord:
    """Return what is on record about a key, or what the log says of a refused attempt, whatever is asked for."""
    with workspace.database.read() as session:
        row = counting(session, key, accept=False)
        if row is None:
            return KeyRecord(refused(session, key))
        return KeyRecord(MeasuredFuse.of(row, Recipe.from_dict(row.recipe)))


def refused(session: Session, key: str) -> MeasuredFuse | None:
    """Return the newest logged measurement of all rows; without one, the newest of a sample."""
    names = [field.name for field in fields(MeasuredFuse)]
    history = reversed(events.history(session, kind="fused", subject=key))
    details = [json.loads(event.detail) for event in history if event.action in (REFUSED, TRIED)]
    measured = [
        MeasuredFuse(**{name: detail[name] for name in names if name in detail}) for detail in details
    ]
    return min(measured, key=lambda measurement: measurement.sampled, default=None)
