"""What an audit found, and what it repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sqlalchemy.exc import InvalidRequestError

from fusery.storage.digest import Digest

from ..record import Record

Verdict = Literal["bit-identical", "identical-tensors", "within-tolerance", "different", "not-rebuilt"]

SOUND: frozenset[Verdict] = frozenset({"bit-identical", "identical-tensors", "within-tolerance"})
"""Answers that prove a model."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is missing or is not what it should be, or an entry of the cache.

    Attributes:
        digest: of the blob, or key of the fused model.
        size: bytes that it should have.
        generation: under which the blob is recorded.
        state: as it is recorded; `cached` for an entry of the cache.
        recorded_size: size in the blob's row; None for an entry of the cache, or a blob without a row.
    """

    digest: Digest
    size: int = 0
    generation: int = 0
    state: str = "ready"
    recorded_size: int | None = None


@dataclass(frozen=True, slots=True)
class Problem(Record):
    """Something that is not as recorded.

    Attributes:
        code: its kind.
        subject: what it was found at.
        message: what is the case.
        dependants: everything that relies on it, as `kind name`.
        damage: what could be repaired, if anything.
    """

    code: str
    subject: str
    message: str
    dependants: tuple[str, ...] = ()
    damage: Damage | None = None
    KEYS: ClassVar[tuple[str, ...]] = ("code", "subject", "message", "digest", "dependants")

    @property
    def digest(self) -> str | None:
        """Digest of the blob, or key of the fused model, that could be repaired; None where it is neither."""
        return self.damage.digest if self.damage else None


@dataclass(frozen=True, slots=True)
class Repair(Record):
    """A problem that is one no more.

    Attributes:
        problem: what it was.
        source: where the good bytes came from.
        quarantined: where the damaged bytes are now, None if there were none.
    """

    problem: Problem
    source: str
    quarantined: str | None = None
    KEYS: ClassVar[tuple[str, ...]] = (*Problem.KEYS, "source", "quarantined")

    @property
    def code(self) -> str:
        """Kind of the problem."""
        return self.problem.code

    @property
    def subject(self) -> str:
        """What it was found at."""
        return self.problem.subject

    @property
    def message(self) -> str:
        """What was the case."""
        return self.problem.message

    @property
    def digest(self) -> str | None:
        """Digest of the blob, or key of the fused model, that was repaired."""
        return self.problem.digest

    @property
    def dependants(self) -> tuple[str, ...]:
        """Everything that relies on it, as `kind name`."""
        return self.problem.dependants


@dataclass(frozen=True, slots=True)
class Rebuilt(Record):
    """What making a fused model again has shown.

    Attributes:
        key: of the model.
        name: its adapters and precision.
        verdict: `bit-identical`: every file has the recorded digest; `identical-tensors`: other files with the same
            tensors; `within-tolerance`: numbers differ by no more than `differences.TOLERANCE`; `different`; or
            `not-rebuilt`, where it could not be made at all.
        recorded: the digest on record.
        digest: the digest that came out, None if nothing did.
        tensor: the first tensor that differs, where the recorded bytes are at hand to compare with.
        files: files whose digests are not the recorded ones.
        inputs: what of base, adapters and engine is not what the model was made from.
        seconds: how long it took.
        message: all of this in a sentence.
    """

    key: str
    name: str
    verdict: Verdict
    recorded: str
    digest: str | None
    tensor: str | None
    files: tuple[str, ...]
    inputs: tuple[str, ...]
    seconds: float
    message: str


@dataclass(slots=True)
class Report(Record):
    """What an audit found.

    Attributes:
        checked: how many things of each kind were looked at.
        problems: what is not as recorded.
        repaired: what was not, and is now.
        quarantined: names of damaged blobs that were put aside in the store, now or earlier.
        notes: what is worth knowing and harms nobody.
        rebuilt: the fused models that were made again, and what that has shown.
        anchored: the log was compared with an anchor; None if the log was not checked.
    """

    checked: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    repaired: list[Repair] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rebuilt: list[Rebuilt] = field(default_factory=list)
    anchored: bool | None = None
    KEYS: ClassVar[tuple[str, ...]] = (
        "ok",
        "checked",
        "problems",
        "repaired",
        "quarantined",
        "notes",
        "rebuilt",
        "anchored",
    )

    @property
    def inconclusive(self) -> bool:
        """A fused model could not be made again, so nothing is known of it."""
        return any(one.verdict == "not-rebuilt" for one in self.rebuilt)

    @property
    def ok(self) -> bool:
        """No problem was found, or none is left."""
        return not self.problems

    def add(
        self,
        code: str,
        subject: str,
        message: str,
        *,
        damage: Damage | None = None,
        dependants: tuple[str, ...] = (),
    ) -> None:
        """Note a problem."""
        self.problems.append(Problem(code, subject, message, dependants, damage))


@contextmanager
def in_order(report: Report, subject: str) -> Iterator[None]:
    """Look at something that follows from records; where a value of theirs is none, or leads to nothing, say so in a note.

    Such a value is named by what looks at records and at spellings: every audit does both.
    """
    try:
        yield
    except (AttributeError, OSError, ValueError, TypeError, LookupError, InvalidRequestError):
        report.notes.append(f"{subject} cannot be looked at before the records are in order")
