"""What an audit found, and what it repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InvalidRequestError

from fusery.storage.digest import Digest

if TYPE_CHECKING:
    from .rebuild import Rebuilt


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is missing or is not what it should be, or an entry of the cache.

    Attributes:
        digest: of the blob, or key of the fused model.
        size: bytes that it should have.
        generation: under which the blob is recorded.
        state: as it is recorded; `cached` for an entry of the cache.
    """

    digest: Digest
    size: int = 0
    generation: int = 0
    state: str = "ready"


@dataclass(frozen=True, slots=True)
class Problem:
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

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as `--json` prints it."""
        return {
            "code": self.code,
            "subject": self.subject,
            "message": self.message,
            "digest": self.damage.digest if self.damage else None,
            "dependants": list(self.dependants),
        }


@dataclass(frozen=True, slots=True)
class Repair:
    """A problem that is one no more.

    Attributes:
        problem: what it was.
        source: where the good bytes came from.
        quarantined: where the damaged bytes are now, None if there were none.
    """

    problem: Problem
    source: str
    quarantined: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**self.problem.to_dict(), "source": self.source, "quarantined": self.quarantined}


@dataclass(slots=True)
class Report:
    """What an audit found.

    Attributes:
        checked: how many things of each kind were looked at.
        problems: what is not as recorded.
        repaired: what was not, and is now.
        quarantined: names of damaged blobs that were put aside in the store, now or earlier.
        notes: what is worth knowing and harms nobody.
        rebuilt: the fused models that were made again, and what that has shown.
    """

    checked: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    repaired: list[Repair] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rebuilt: list[Rebuilt] = field(default_factory=list)

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

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "ok": self.ok,
            "checked": dict(self.checked),
            "problems": [problem.to_dict() for problem in self.problems],
            "repaired": [repair.to_dict() for repair in self.repaired],
            "quarantined": self.quarantined,
            "notes": self.notes,
            "rebuilt": [one.to_dict() for one in self.rebuilt],
        }


@contextmanager
def in_order(report: Report, subject: str) -> Iterator[None]:
    """Look at something that follows from records; where a value of theirs is none, or leads to nothing, say so in a note.

    Such a value is named by what looks at records and at spellings: every audit does both.
    """
    try:
        yield
    except (AttributeError, OSError, ValueError, TypeError, LookupError, InvalidRequestError):
        report.notes.append(f"{subject} cannot be looked at before the records are in order")
