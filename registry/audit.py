"""Audit: are the bytes what the records say, and do the records agree with one another?

Garbage is not a problem: an interrupted command may leave part files, blobs that nothing names and claims that ran
out, and none of them can be taken for a record.  They are counted as notes, for the collector to remove.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StorageError
from fusery.storage.manifest import FileEntry, Manifest

from . import events, tables
from .architecture import WEIGHTS
from .resolve import resolve_any

if TYPE_CHECKING:
    from .workspace import Workspace


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as recorded."""

    code: str
    subject: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the problem as DESIGN section 9 prints it."""
        return {"code": self.code, "subject": self.subject, "message": self.message}


@dataclass(slots=True)
class Report:
    """What an audit found.

    Attributes:
        checked: how many things of each kind were looked at.
        problems: what is not as recorded.
        notes: what is worth knowing and harms nobody.
    """

    checked: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No problem was found."""
        return not self.problems

    def add(self, code: str, subject: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(code, subject, message))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as DESIGN section 9 prints it."""
        return {
            "ok": self.ok,
            "checked": dict(self.checked),
            "problems": [problem.to_dict() for problem in self.problems],
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Holding:
    """One record with its manifest, and where its files are besides the store: a folder, or nowhere."""

    kind: str
    name: str
    digest: str
    manifest: Manifest
    stored: dict[str, int]
    folder: Path | None


def audit(
    workspace: Workspace, references: tuple[str, ...] = (), *, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Rehash and cross-check what is registered.

    Checked are: manifests against their digests, blobs against size and digest, bases kept by reference, fused models
    in the cache, bundles that are still where they were written, and, without references, the chain of events and
    what the store holds besides.

    Args:
        workspace: the registry's parts.
        references: only these adapters, bases and fused artifacts, with the bases and adapters they came from, and the
            bases' calibrations.
        say: told what is being checked.

    Raises:
        UnknownReferenceError: a reference names nothing.
    """
    report = Report()
    with workspace.database.read() as session:
        holdings = list(_holdings(session, workspace, references))
    seen: set[tuple[str, int]] = set()
    for holding in holdings:
        say(f"{holding.kind} {holding.name}")
        report.checked[holding.kind] += 1
        if holding.manifest.digest != holding.digest:
            report.add(
                "manifest_changed", holding.name, "the list of files does not have the recorded digest"
            )
        _check_blobs(workspace, holding, report, seen)
        if holding.folder is not None:
            _check_folder(holding, report)
            _check_strangers(holding, report)
    if not references:
        _check_events(workspace, report)
        _note_garbage(workspace, report)
    return report


def _holdings(session: Session, workspace: Workspace, references: tuple[str, ...]) -> Iterator[Holding]:
    if not references:
        for table in (tables.BaseModel, tables.Calibration, tables.Adapter, tables.Fused, tables.Bundle):
            for row in session.scalars(select(table).order_by(table.id)):
                yield _holding(row, workspace)
        return
    rows: dict[tuple[str, str], Any] = {}
    for reference in references:
        subject = resolve_any(session, reference)
        chain: list[Any] = [subject.base or subject.adapter or subject.fused]
        if subject.fused:
            chain += [subject.fused.adapter, subject.fused.base]
        elif subject.adapter:
            chain += [subject.adapter.base]
        chain += [made for row in chain if isinstance(row, tables.BaseModel) for made in row.calibrations]
        rows |= {(type(row).__name__, row.digest): row for row in chain}
    for row in rows.values():
        yield _holding(row, workspace)


def _holding(row: Any, workspace: Workspace) -> Holding:
    files = row.manifest.files
    manifest = Manifest(tuple(FileEntry(file.path, file.size, Digest(file.sha256)) for file in files))
    stored = {file.path: index for index, file in enumerate(files) if file.blob is not None}
    kind, name, folder = "bundle", "", None
    if isinstance(row, tables.BaseModel):
        kind, name = "base", row.names[0].name
        folder = Path(row.location) if row.location else None
    elif isinstance(row, tables.Calibration):
        kind, name = "calibration", f"{row.base.names[0].name} calibrated ({row.prompts}, {row.digest[:12]})"
    elif isinstance(row, tables.Adapter):
        kind, name = "adapter", row.name
    elif isinstance(row, tables.Fused):
        kind, name = "fused", f"{row.adapter.name} ({row.precision}, {row.key[:12]})"
        entry = workspace.cache.entry(Digest(row.key))
        folder = entry if entry.exists() else None
    else:
        name = row.path
        folder = Path(row.path) if Path(row.path).exists() else None
    return Holding(kind, name, row.digest, manifest, stored, folder)


def _check_blobs(workspace: Workspace, holding: Holding, report: Report, seen: set[tuple[str, int]]) -> None:
    entries = [entry for entry in holding.manifest if entry.path in holding.stored]
    if not entries:
        return
    generations = _generations(workspace, [entry.sha256 for entry in entries])
    for entry in entries:
        state, generation = generations.get(entry.sha256, ("absent", 0))
        subject = f"{holding.name}: {entry.path}"
        if state != "ready":
            report.add("blob_not_ready", subject, f"blob {entry.sha256} is recorded as {state}")
            continue
        if (entry.sha256, generation) in seen:
            continue
        seen.add((entry.sha256, generation))
        report.checked["blob"] += 1
        try:
            workspace.store.verify(entry.sha256, entry.size, generation=generation)
        except BlobMissingError as error:
            report.add("blob_missing", subject, error.message)
        except BlobCorruptError as error:
            report.add("blob_corrupt", subject, error.message)
        except StorageError as error:
            report.add("blob_unreadable", subject, error.message)


def _generations(workspace: Workspace, digests: list[Digest]) -> dict[str, tuple[str, int]]:
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.Blob).where(tables.Blob.digest.in_(digests)))
        return {row.digest: (row.state, row.generation) for row in rows}


_FOLDER_CODES = {"base": "reference", "fused": "cache", "bundle": "bundle"}


def _check_folder(holding: Holding, report: Report) -> None:
    """Hold the files of a folder outside the store against the manifest.

    A bundle that was moved, or a fused model that was evicted, has no folder any more and is no problem; one that is
    there and differs is.
    """
    assert holding.folder is not None
    code = _FOLDER_CODES[holding.kind]
    for entry in holding.manifest:
        path = holding.folder / entry.path
        report.checked["file"] += 1
        try:
            digest, size = digest_file(path)
        except OSError:
            report.add(f"{code}_missing", f"{holding.name}: {entry.path}", f"{path} is gone or unreadable")
            continue
        if (digest, size) != (entry.sha256, entry.size):
            message = f"{path} has {size} bytes with digest {digest[:12]}, recorded are {entry.size} and {entry.sha256[:12]}"
            report.add(f"{code}_changed", f"{holding.name}: {entry.path}", message)


def _check_strangers(holding: Holding, report: Report) -> None:
    """Look for files that are not in the manifest and that mlx-lm would load or people would take for part of it."""
    assert holding.folder is not None
    known = {entry.path for entry in holding.manifest}
    found = {
        path.relative_to(holding.folder).as_posix() for path in holding.folder.rglob("*") if path.is_file()
    }
    strangers = {path for path in found - known if not Path(path).name.startswith(".")}
    if holding.kind == "base":
        strangers = {path for path in strangers if WEIGHTS.fullmatch(path)}
    for path in sorted(strangers):
        message = f"{holding.folder / path} was not there when this was recorded"
        report.add(f"{_FOLDER_CODES[holding.kind]}_added", f"{holding.name}: {path}", message)


def _check_events(workspace: Workspace, report: Report) -> None:
    with workspace.database.read() as session:
        newest = events.last(session)
        report.checked["event"] = newest.seq if newest else 0
        for problem in events.verify_chain(session):
            report.add("event_chain", f"event {problem.seq}", problem.message)


def _note_garbage(workspace: Workspace, report: Report) -> None:
    with workspace.database.read() as session:
        known = dict(session.execute(select(tables.Blob.digest, tables.Blob.generation)).all())
        referenced = set(
            session.scalars(select(tables.ManifestFile.blob).where(tables.ManifestFile.blob.is_not(None)))
        )
        ready = dict(
            session.execute(
                select(tables.Blob.digest, tables.Blob.size).where(tables.Blob.state == "ready")
            ).all()
        )
    for digest in ready.keys() - referenced:
        if workspace.store.size(Digest(digest), generation=known[digest]) is None:
            report.add("blob_missing", digest, "recorded as ready, and not in the store")
    unused = [
        blob
        for blob in workspace.store.blobs()
        if blob.digest not in referenced or known.get(blob.digest) != blob.generation
    ]
    if unused:
        report.notes.append(
            f"{len(unused)} blobs, {sum(blob.size for blob in unused)} bytes, belong to nothing"
        )
    leftovers = list(workspace.store.leftovers())
    if leftovers:
        report.notes.append(f"{len(leftovers)} part files of interrupted writes are in the store")
