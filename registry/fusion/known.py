"""What is on record about a fuse, looked up in one go: what it retained, and the record if it is any use."""

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
    share_in_words,
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
    """What a fuse was found to retain.

    Attributes:
        noise: what was written beside the update, as a share of the weights; None if it is not known.
        sampled: it is of a sample of the rows: enough for `auto` to pass over what it would try next to another, and to say
            nothing else by.
        at_random: that sample is rounded at random, though a calibration shapes what is written.
    """

    verdict: str
    retained: float | None
    noise: float | None = None
    cosine: float | None = None
    shaped: bool = False
    sampled: bool = False
    at_random: bool = False

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
        least, closest = request.min_fidelity, closeness(self.retained)
        if least is not None and closest < least:
            limit = f"--min-fidelity asks for {range_in_words(least)}"
        elif self.verdict != PASS:
            return self.in_words
        elif not self.is_quiet:
            limit = f"{request.precision} takes at most {100 * self._quiet_to:g} % noise"
        elif closest < WHOLE_FROM:
            limit = f"{request.precision} takes {range_in_words(WHOLE_FROM)}"
        else:
            limit = f"the cosine is {self.cosine or 0.0:.2f}, where {request.precision} takes at least {CLEAR_FROM:g}"
        # The verdict would be PASS, and that is not the reason.
        noise = "" if self.noise is None else f", {100 * self.noise:.1f} % noise"
        return f"{share_in_words(self.retained)}{noise}, and {limit}"

    def meaning(self, request: FuseRequest) -> str:
        """Return why a request does not take it, without figures."""
        closest = closeness(self.retained)
        if request.min_fidelity is not None and closest < request.min_fidelity:
            return "retains less of the update than --min-fidelity requires"
        if self.verdict != LOST and closest >= WHOLE_FROM and not self.is_quiet:
            return "its rounding errors would change other answers"
        return MEANINGS[LOST if self.verdict == LOST else DEGRADED]

    def passes(self, request: FuseRequest, *, strict: bool, sound: bool = False) -> bool:
        """Tell whether it may be published.

        Args:
            strict: it asks for nearly all of the update, little noise, and that it stands out of that, while there is a larger
                format.
            sound: it asks for the verdict PASS, while something else that fits into the budget has it.
        """
        if request.accept_loss and not strict and not sound:
            return True
        if request.min_fidelity is not None and closeness(self.retained) < request.min_fidelity:
            return False
        if not strict:
            return self.verdict == PASS if sound else self.verdict != LOST
        clear = self.cosine is None or self.cosine >= CLEAR_FROM
        whole = closeness(self.retained) >= WHOLE_FROM
        return self.verdict == PASS and self.is_quiet and whole and clear

    @property
    def is_quiet(self) -> bool:
        """`auto` bears its noise."""
        return (self.noise or 0.0) <= self._quiet_to

    @property
    def _quiet_to(self) -> float:
        return QUIET_SHAPED_TO if self.shaped else QUIET_TO


@dataclass(frozen=True, slots=True)
class Known:
    """What is on record about a key.

    Attributes:
        measured: what it retained, as recorded or as the log says of a refused attempt; None if nobody knows.
        view: the record; None if there is none, or it does not pass what was asked for.
    """

    measured: MeasuredFuse | None = None
    view: FusedRecord | None = None

    @property
    def settled(self) -> MeasuredFuse | None:
        """What it retained, where all of its rows were measured: only that can refuse what was asked for."""
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
        """The record, if another registry says what it is, and that is enough."""
        return self.view if self.own is None else None


def recorded_measurement(workspace: Workspace, key: Digest) -> Known:
    """Return what is on record about a key, or what the log says of a refused attempt, whatever is asked for."""
    with workspace.database.read() as session:
        row = counting(session, key, accept=False)
        return Known(
            refused(session, key) if row is None else MeasuredFuse.of(row, Recipe.from_dict(row.recipe))
        )


def refused(session: Session, key: str) -> MeasuredFuse | None:
    """Return what the log says of refused attempts: the newest of which all rows were measured, else of a sample."""
    newest = None
    for refusal in reversed(events.history(session, kind="fused", subject=key)):
        if refusal.action not in (REFUSED, TRIED):
            continue
        detail = json.loads(refusal.detail)
        measured_fields = {
            field.name: detail[field.name] for field in fields(MeasuredFuse) if field.name in detail
        }
        measured = MeasuredFuse(**measured_fields)
        if not measured.sampled:
            return measured
        newest = newest or measured
    return newest
