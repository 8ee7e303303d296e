"""Reports of audits (problems, repairs and rebuilt models) and of collections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

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


class Problem(Record, kw_only=False):
    """A difference from the records."""

    code: str = described("its kind")
    subject: str = described("the record, blob or file")
    message: str = described("the difference")
    dependants: tuple[str, ...] = described("the records that depend on it, as `kind name`", default=())
    damage: Damage | None = None  # the blob or cache entry to repair, if any
    KEYS: ClassVar[tuple[str, ...]] = ("code", "subject", "message", "digest", "dependants")

    @property
    def digest(self) -> str | None:
        """Digest of the blob, or key of the fused model, to repair; None if neither is damaged."""
        return self.damage.digest if self.damage else None


class Repair(Problem, kw_only=False):
    """A repaired problem."""

    source: str = described("the source of the good bytes", default="")
    quarantined: str | None = described("location of the damaged bytes; None without", default=None)
    KEYS: ClassVar[tuple[str, ...]] = (*Problem.KEYS, "source", "quarantined")


class Rebuilt(Record, kw_only=False):
    """The result of rebuilding a fused model."""

    key: str = described("cache key of the model")
    name: str = described("its adapters and precision")
    verdict: Verdict = described(
        "`bit-identical`: every file has the recorded digest; `identical-tensors`: other files with the same tensors; "
        "`different`; or `not-rebuilt`, if it could not be rebuilt"
    )
    recorded: str = described("recorded digest")
    digest: str | None = described("digest of the rebuilt model; None if it was not rebuilt")
    tensor: str | None = described("the first tensor that differs; None without the recorded bytes")
    files: tuple[str, ...] = described("files with other digests than recorded")
    inputs: tuple[str, ...] = described("base model, adapters or engine that differ from the recorded ones")
    seconds: float = described("duration in seconds")
    message: str = described("summary")


class Report(Record, kw_only=False, frozen=False):
    """The result of an audit."""

    checked: Counter[str] = described("number of checked items of each kind", default_factory=Counter)
    problems: list[Problem] = described("differences from the records", default_factory=list)
    repaired: list[Repair] = described("problems that were repaired", default_factory=list)
    quarantined: list[str] = described("names of damaged blobs in quarantine", default_factory=list)
    notes: list[str] = described("harmless observations", default_factory=list)
    rebuilt: list[Rebuilt] = described("results of rebuilding fused models", default_factory=list)
    anchored: bool | None = described("an anchor was compared; None without a check of the log", default=None)
    KEYS: ClassVar[tuple[str, ...]] = (
        "ok", "checked", "problems", "repaired", "quarantined", "notes", "rebuilt", "anchored",
    )  # fmt: skip

    @property
    def inconclusive(self) -> bool:
        """Whether a fused model could not be rebuilt."""
        return any(one.verdict == "not-rebuilt" for one in self.rebuilt)

    @property
    def ok(self) -> bool:
        """Whether no problem is left."""
        return not self.problems

    def extend(self, part: Report) -> None:
        """Add the counts, problems and notes of a part of the audit."""
        self.checked.update(part.checked)
        self.problems += part.problems
        self.notes += part.notes

    def add(self, *facts: Any, **more: Any) -> None:
        """Add a problem; see `Problem`."""
        self.problems.append(Problem(*facts, **more))


class Removed(Record, kw_only=False):
    """Something that was removed from the store, or would be."""

    kind: Literal["blob", "generation", "leftover"] = described(
        "`blob` that nothing refers to, dead `generation` of a blob, or `leftover` of an interrupted write"
    )
    name: str = described("digest of a blob, else the name in the store")
    bytes: int = described("size in bytes; 0 if the store does not report it")


class Collection(Record, kw_only=False, frozen=False):
    """What a collection removed and kept."""

    dry_run: bool = described("nothing was removed, this is the plan")
    items_: list[Removed] = described("what was removed", default_factory=list)
    listed: int = 0  # blobs that were in the store when it began, whatever their generation
    live: int = described("blobs that something refers to", default=0)
    live_bytes: int = described("bytes of those", default=0)
    quarantined: int = described("damaged blobs that were put aside; they stay", default=0)
    quarantined_bytes: int = described("bytes of those", default=0)
    notes: list[str] = described("remarks, one sentence each", default_factory=list)
    KEYS: ClassVar[tuple[str, ...]] = (
        "dry_run", "removed", "freed_bytes", "kept", "live", "live_bytes", "quarantined", "quarantined_bytes",
        "items_", "notes",
    )  # fmt: skip

    @property
    def removed(self) -> int:
        """How many things were removed."""
        return len(self.items_)

    @property
    def freed_bytes(self) -> int:
        """Bytes of what was removed."""
        return sum(item.bytes for item in self.items_)

    @property
    def kept(self) -> int:
        """Blobs that are still in the store: live ones, and those that are too young or in use."""
        return max(0, self.listed - sum(item.kind != "leftover" for item in self.items_))


UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, FuseryError)  # of a record's invalid values


@contextmanager
def in_order(report: Report, subject: str) -> Iterator[None]:
    """Run a check that relies on valid records; if one is invalid, which another check reports, note that."""
    from sqlalchemy.exc import InvalidRequestError

    try:
        yield
    except (AttributeError, OSError, ValueError, TypeError, LookupError, InvalidRequestError):
        report.notes.append(f"{subject} not checked: records with invalid values")
