"""Reports of audits: problems, repairs and rebuilt models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from fusery.storage.digest import Digest

from ..record import Record, described

Verdict = Literal["bit-identical", "identical-tensors", "different", "not-rebuilt"]


@dataclass(frozen=True, slots=True)
class Damage:
    """A missing or damaged blob, with its recorded size if any; or an entry of the cache (its key, `cached`)."""

    digest: Digest
    size: int = 0
    generation: int = 0
    state: str = "ready"
    recorded_size: int | None = None


@dataclass(frozen=True, slots=True)
class Problem(Record):
    """A difference from the records.

    Attributes:
        code: its kind.
        subject: the record, blob or file.
        message: the difference.
        dependants: the records that depend on the subject, as `kind name`.
        damage: the blob or cache entry to repair, if any.
    """

    code: str
    subject: str
    message: str
    dependants: tuple[str, ...] = ()
    damage: Damage | None = None
    KEYS: ClassVar[tuple[str, ...]] = ("code", "subject", "message", "digest", "dependants")

    @property
    def digest(self) -> str | None:
        """Digest of the blob, or key of the fused model, to repair; None if neither is damaged."""
        return self.damage.digest if self.damage else None


@dataclass(frozen=True, slots=True)
class Repair(Problem):
    """A repaired problem.

    Attributes:
        source: the source of the good bytes.
        quarantined: location of the damaged bytes; None if there were none.
    """

    source: str = ""
    quarantined: str | None = None
    KEYS: ClassVar[tuple[str, ...]] = (*Problem.KEYS, "source", "quarantined")

    @classmethod
    def of(cls, problem: Problem, source: str, quarantined: str | None = None) -> Repair:
        """Return the repair of a problem."""
        known = {each.name: getattr(problem, each.name) for each in fields(problem)}
        return cls(**known, source=source, quarantined=quarantined)


@dataclass(frozen=True, slots=True)
class Rebuilt(Record):
    """The result of rebuilding a fused model."""

    key: str = described("cache key of the model")
    name: str = described("its adapters and precision")
    verdict: Verdict = described(
        "`bit-identical`: every file has the recorded digest; `identical-tensors`: other files with the same tensors; "
        "`different`; or `not-rebuilt`, if it could not be rebuilt"
    )
    recorded: str = described("recorded digest")
    digest: str | None = described("digest of the rebuilt model; None if it was not rebuilt")
    tensor: str | None = described(
        "the first tensor that differs; None if the recorded bytes are not available"
    )
    files: tuple[str, ...] = described("files with other digests than recorded")
    inputs: tuple[str, ...] = described(
        "base model, adapters or engine that differ from those of the recorded fuse"
    )
    seconds: float = described("duration in seconds")
    message: str = described("summary")


@dataclass(slots=True)
class Report(Record):
    """The result of an audit.

    Attributes:
        checked: number of checked items of each kind.
        problems: differences from the records.
        repaired: problems that were repaired.
        quarantined: names of damaged blobs in the store's quarantine.
        notes: harmless observations.
        rebuilt: results of rebuilding fused models.
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
        """Whether a fused model could not be rebuilt."""
        return any(one.verdict == "not-rebuilt" for one in self.rebuilt)

    @property
    def ok(self) -> bool:
        """Whether no problem is left."""
        return not self.problems

    def add(self, *facts: Any, **more: Any) -> None:
        """Add a problem; see `Problem`."""
        self.problems.append(Problem(*facts, **more))


@contextmanager
def in_order(report: Report, subject: str) -> Iterator[None]:
    """Run a check that relies on valid records; if one is invalid, which another check reports, note that."""
    from sqlalchemy.exc import InvalidRequestError

    try:
        yield
    except (AttributeError, OSError, ValueError, TypeError, LookupError, InvalidRequestError):
        report.notes.append(f"{subject} not checked: records with invalid values")
