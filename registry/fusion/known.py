"""The measurement and the record of a fuse, looked up together."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.progress import Reporter

from .. import tables
from ..database import events
from ..engine.recipe import Recipe
from ..engine.verdict import (
    CLEAR_FROM,
    DEGRADED,
    LOST,
    MEANINGS,
    NEAR_FROM,
    NOISE_TO,
    PASS,
    QUIET_SHAPED_TO,
    QUIET_TO,
    UNSURE,
    WHOLE_FROM,
    closeness,
    in_words,
    range_in_words,
    recorded_verdict,
)
from ..errors import DatabaseReadOnlyError
from ..parts import part
from ..records.fused import FusedAnswers, FusedRecord
from ..records.fused_rows import ANSWERED, answers_in, final_verdict
from .records import counting
from .request import FuseRequest

if TYPE_CHECKING:
    from ..engine.fidelity import FuseFidelity
    from ..workspace.workspace import Workspace
    from .fuse_inputs import FuseInputs

REFUSED = "fuse.refused"
TRIED = "fuse.tried"  # `auto` measured a format and went on to the next


@dataclass(frozen=True, slots=True)
class MeasuredFuse:
    """The fidelity of a fuse, measured on all rows or on a sample of them.

    Attributes:
        weights: the verdict of the weights.
    """

    weights: str
    retained: float | None
    noise: float | None = None
    cosine: float | None = None
    shaped: bool = False
    sampled: bool = False  # then `auto` may pass the format over, and nothing else follows
    at_random: bool = False  # the sample was rounded at random, though a calibration shapes what is written
    answers: FusedAnswers | None = None

    @classmethod
    def of(cls, fidelity: FuseFidelity | tables.FusedRow, recipe: Recipe) -> MeasuredFuse:
        """Take the overall figures of a fuse or of a record."""
        shaped = recipe.precision == "mixed" and recipe.calibration is not None
        figures = fidelity.retained, fidelity.noise, fidelity.cosine
        return cls(recorded_verdict(fidelity.verdict, *figures, shaped=shaped), *figures, shaped)

    @classmethod
    def of_sample(cls, fidelity: FuseFidelity, recipe: Recipe, *, at_random: bool = False) -> MeasuredFuse:
        """Take the overall figures of a sample of what a recipe writes."""
        return replace(cls.of(fidelity, recipe), sampled=True, at_random=at_random)

    def with_answers(self, answers: FusedAnswers | None) -> MeasuredFuse:
        """Return a copy with the model's answers, if there are any."""
        return replace(self, answers=answers or self.answers)

    @property
    def verdict(self) -> str:
        """The verdict of the weights and the answers."""
        return final_verdict(self.weights, self.answers)

    @property
    def in_words(self) -> str:
        """The verdict with its reason; where the answers contradict LOST weights, both verdicts."""
        verdict, differs = self.verdict, self.weights == LOST != self.verdict
        verdict = f"{LOST} by its weights, {verdict} with its answers" if differs else verdict
        return in_words(verdict, self.retained, self.noise)

    def reason(self, request: FuseRequest) -> str:
        """Return why a request does not take it: the figures, and the limit that they missed."""
        if request.min_fidelity is not None and closeness(self.retained) < request.min_fidelity:
            return f"{self.in_words}; --min-fidelity asks for {range_in_words(request.min_fidelity)}"
        return (
            f"{self.in_words}, cosine {self.cosine or 0.0:.2f}; PASS requires {range_in_words(WHOLE_FROM)} in all, 80 to 120 % in its modules,"
            f" at most {100 * self._quiet_to:g} % noise and a cosine of at least {CLEAR_FROM:g}"
        )

    def meaning(self, request: FuseRequest) -> str:
        """Return why a request does not take it, without figures."""
        closest = closeness(self.retained)
        if request.min_fidelity is not None and closest < request.min_fidelity:
            return "retains less of the update than --min-fidelity requires"
        if self.verdict == UNSURE and closest >= WHOLE_FROM and not self.is_quiet:
            return "its rounding errors may also change the answers to unrelated prompts"
        return MEANINGS[self.verdict]

    def passes(self, request: FuseRequest, *, strict: bool, sound: bool = False) -> bool:
        """Tell whether it may be published; `strict` asks for the verdict PASS, `sound` for what is near it within a budget."""
        if request.accept_loss and not strict and not sound:
            return True
        if request.min_fidelity is not None and closeness(self.retained) < request.min_fidelity:
            return False
        if strict or self.verdict == PASS:
            return self.verdict == PASS
        if sound:
            near = closeness(self.retained) >= NEAR_FROM and (self.noise or 0.0) <= NOISE_TO
            return self.verdict == UNSURE and near
        refused = (LOST, DEGRADED) if request.may_prefer else (LOST,)
        return self.weights != LOST and self.verdict not in refused

    @property
    def is_quiet(self) -> bool:
        """`auto` bears its noise."""
        return (self.noise or 0.0) <= self._quiet_to

    @property
    def _quiet_to(self) -> float:
        return QUIET_SHAPED_TO if self.shaped else QUIET_TO


@dataclass
class SecondOpinion:
    """Evaluates models on held-out prompts, within one time limit for the fuse."""

    inputs: FuseInputs
    scale: float | None  # instead of the first adapter's own
    left: float  # seconds
    again: bool  # also those that could not be asked, or whose prompts did not decide
    files: ExitStack  # closes what the questions keep

    @cached_property
    def data(self) -> list[Path]:
        """Held-out data of each adapter's run; none unless all have some, models can be asked here, and answers logged."""
        workspace = self.inputs.workspace
        look = part("research.second_opinion:held_out_data")
        data = [look(workspace, adapter.id) for adapter in self.inputs.parts]
        try:
            with workspace.database.write():
                return [] if None in data else data
        except DatabaseReadOnlyError:
            return []

    @cached_property
    def _questions(self) -> Any:
        return part("research.second_opinion:Questions")(self.inputs, self.scale, self.data, self.files)

    def asks(self, record: KeyRecord, *, lost: bool) -> bool:
        """Tell whether the model of a key is to be evaluated: if it is UNSURE and, with `lost`, if it is LOST; answers that decided stay."""
        verdicts = (UNSURE, LOST) if lost else (UNSURE,)
        undecided = record.measured is not None and record.measured.verdict in verdicts
        unanswered = record.answers is None or (self.again and record.answers.verdict == UNSURE)
        return undecided and unanswered and self.left > 0 and bool(self.data)

    def ask(self, folder: Path, key: str, reporter: Reporter) -> FusedAnswers | None:
        """Return what the model in a folder answers, and log it; None if it could not be asked, or not in time and earlier answers stay."""
        inputs, started = self.inputs, time.monotonic()
        answers: FusedAnswers | None = self._questions.ask(
            folder, until=started + self.left, reporter=reporter
        )
        self.left -= time.monotonic() - started
        if answers is not None:
            detail = {"adapter": inputs.adapter.name, "answers": answers.to_dict()}
            with inputs.workspace.database.write() as session:
                if not answers.prompts and answers_of(session, key) is not None:
                    return None
                events.record(session, ANSWERED, "fused", key, detail)
        return answers


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The measurement and the record of a key."""

    measured: MeasuredFuse | None = None  # as recorded, or as logged for a refused attempt
    view: FusedRecord | None = None  # None without a record, or if it does not pass the request
    answers: FusedAnswers | None = None

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
        return refused(session, key) if row is None else record_of_row(session, key, row)


def record_of_row(session: Session, key: str, row: tables.FusedRow) -> KeyRecord:
    """Return the measurement of the record for a key, with what the model answered; a claim has a key of its own."""
    measured = MeasuredFuse.of(row, Recipe.from_dict(row.recipe))
    answers = answers_of(session, row.key) or (answers_of(session, key) if key != row.key else None)
    return KeyRecord(measured.with_answers(answers), answers=answers)


def answers_of(session: Session, key: str) -> FusedAnswers | None:
    """Return what the model of a key answered last; None if it was not asked."""
    return answers_in(events.history(session, kind="fused", subject=key, action=ANSWERED, limit=1))


def refused(session: Session, key: str) -> KeyRecord:
    """Return the newest logged measurement of all rows; without one, the newest of a sample; and what the model answered."""
    names = [field.name for field in fields(MeasuredFuse)]
    history = reversed(events.history(session, kind="fused", subject=key))
    details = [json.loads(event.detail) for event in history if event.action in (REFUSED, TRIED)]
    entries = [{"weights": detail["verdict"], **detail} for detail in details]
    logged = [MeasuredFuse(**{name: one[name] for name in names if name in one}) for one in entries]
    newest = min(logged, key=lambda measurement: measurement.sampled, default=None)
    answers = answers_of(session, key)
    if newest is None:
        return KeyRecord(answers=answers)
    figures = newest.retained, newest.noise, newest.cosine
    weights = recorded_verdict(newest.weights, *figures, shaped=newest.shaped)
    return KeyRecord(replace(newest, weights=weights, answers=answers), answers=answers)
