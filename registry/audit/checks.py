"""Each thing that is looked at, read from beginning to end: blobs, folders, the log, and what belongs to nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StorageError

from .. import tables
from ..database import Database, events
from ..database.definitions import differences
from ..database.intents import LONGEST
from ..database.sealing import Key
from ..models.architecture import WEIGHTS
from ..parsing import plural, shown_size
from . import dependants
from .alias_moves import check_alias_moves
from .amended import check_amendments
from .auditable import AuditableItem
from .records import check_records, count_records
from .report import Damage, Report, in_order
from .rewritten import check_rewritten
from .spellings import check_spellings, check_table

if TYPE_CHECKING:
    from ..workspace import Workspace

Trouble = tuple[str, str] | None
"""Code and message of what is wrong with a blob, None if it is whole."""

_BATCH = 500
_SHOWN = 8
"""The most names in one note."""

_FOLDER_CODES = {"base": "reference", "fused": "cache", "bundle": "bundle"}


@dataclass(frozen=True, slots=True)
class Reader:
    """How it is found out what is wrong with a blob and with a folder: now, or it was found out before.

    Attributes:
        blob: returns what is wrong with a blob.
        folder: returns what was found in a record's folder.
        notes: what an audit says of its reading in the end.
    """

    blob: Callable[[Damage], Trouble]
    folder: Callable[[AuditableItem], Report]
    notes: tuple[str, ...] = ()


def with_blobs(
    workspace: Workspace, items: Sequence[AuditableItem]
) -> Iterator[tuple[AuditableItem, dict[Damage, str]]]:
    """Yield records, each with its blobs that none before it has: as they are recorded now, and where they were met."""
    met: set[Digest] = set()
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        files = [[entry for entry in item.manifest if entry.path in item.stored] for item in batch]
        known = _blob_states(workspace, list({entry.sha256 for each in files for entry in each} - met))
        for item, entries in zip(batch, files, strict=True):
            blobs: dict[Damage, str] = {}
            for entry in entries:
                if entry.sha256 not in met:
                    met.add(entry.sha256)
                    state, generation, size = known.get(entry.sha256, ("absent", 0, None))
                    damage = Damage(entry.sha256, entry.size, generation, state, size)
                    blobs[damage] = f"{item.name}: {entry.path}"
            yield item, blobs


def check_blob(workspace: Workspace, damage: Damage, subject: str, trouble: Trouble, report: Report) -> None:
    """Note that a blob was read, and what is wrong with it, with all that relies on it."""
    report.checked["blob"] += 1
    if trouble is not None:
        with workspace.database.read() as session:
            relying = dependants.of_blob(session, damage.digest)
        report.add(trouble[0], subject, trouble[1], damage=damage, dependants=relying)


def trouble_of(workspace: Workspace, damage: Damage, place: Path | None = None) -> Trouble:
    """Return code and message of what is wrong with a blob, None if it is whole, and then lies at a place if one is given."""
    if damage.state != "ready":
        return "blob_not_ready", f"blob {damage.digest} is recorded as {damage.state}"
    try:
        if place is None:
            workspace.store.verify(damage.digest, damage.size, generation=damage.generation)
        else:
            workspace.store.fetch(damage.digest, place, generation=damage.generation, size=damage.size)
    except BlobMissingError as error:
        return "blob_missing", error.message
    except BlobCorruptError as error:
        return "blob_corrupt", error.message
    except StorageError as error:
        return "blob_unreadable", error.message
    except (ValueError, TypeError):  # SQLite keeps whatever somebody wrote there
        return "blob_unreadable", f"blob {damage.digest} is recorded as something that no store can have"
    if damage.recorded_size not in (None, damage.size):
        message = f"blob {damage.digest} has {damage.size} bytes, and its row records {damage.recorded_size}"
        return "blob_size_differs", message
    return None


def _blob_states(workspace: Workspace, digests: Sequence[Digest]) -> dict[str, tuple[str, int, int]]:
    """Return the recorded state, generation and size of blobs."""
    found: dict[str, tuple[str, int, int]] = {}
    blob = tables.Blob
    with workspace.database.read() as session:
        for start in range(0, len(digests), _BATCH):
            query = select(blob.digest, blob.state, blob.generation, blob.size)
            for row in session.execute(query.where(blob.digest.in_(digests[start : start + _BATCH]))):
                found[row.digest] = (row.state, row.generation, row.size)
    return found


def check_folder(workspace: Workspace, item: AuditableItem) -> Report:
    """Hold the files of a folder outside the store against the manifest, and return what was found.

    A bundle that was moved, or a fused model that was evicted, has no folder any more and is no problem; one that is
    there and differs is.
    """
    report = Report()
    with in_order(report, item.name):
        _check_folder(workspace, item, report)
    return report


def _check_folder(workspace: Workspace, item: AuditableItem, report: Report) -> None:
    assert item.folder is not None
    kind = _FOLDER_CODES[item.kind]
    found: list[tuple[str, str, str]] = []
    for entry in item.manifest:
        path = item.file or item.folder / entry.path
        try:
            digest, size = digest_file(path)
        except (OSError, StorageError):
            found.append((f"{kind}_missing", entry.path, f"{path} is gone or unreadable"))
            continue
        if (digest, size) != (entry.sha256, entry.size):
            message = (
                f"{path} has {size} bytes with digest {digest[:12]}, "
                f"recorded are {entry.size} and {entry.sha256[:12]}"
            )
            found.append((f"{kind}_changed", entry.path, message))
    for name in _unexpected(item):
        message = f"{item.folder / name} was not there when this was recorded"
        found.append((f"{kind}_added", name, message))
    if not found:
        return
    damage: Damage | None = None
    relying: tuple[str, ...] = ()
    if item.key is not None:
        damage = Damage(item.key, item.manifest.size, state="cached")
        with workspace.database.read() as session:
            relying = dependants.of_fused(session, item.key)
    for code, name, message in found:
        report.add(code, f"{item.name}: {name}", message, damage=damage, dependants=relying)


def _unexpected(item: AuditableItem) -> list[str]:
    """Return files that are not in the manifest and that mlx-lm would load or people would take for part of it."""
    assert item.folder is not None
    if item.file is not None:
        return []
    known = {entry.path for entry in item.manifest}
    found = {path.relative_to(item.folder).as_posix() for path in item.folder.rglob("*") if path.is_file()}
    unexpected = {path for path in found - known if not Path(path).name.startswith(".")}
    if item.kind == "base":
        unexpected = {path for path in unexpected if WEIGHTS.fullmatch(path)}
    return sorted(unexpected)


def check_events(workspace: Workspace, report: Report) -> None:
    """Follow the chain of the log."""
    with workspace.database.read() as session:
        newest = events.last(session)
        report.checked["event"] = newest.seq if newest else 0
        for problem in events.verify_chain(session):
            report.add("event_chain", f"event {problem.seq}", problem.message)
        for respelled in check_table(session, tables.metadata.tables["event"]):
            report.add(respelled.code, respelled.subject, respelled.message)


def check_definitions(workspace: Workspace, report: Report) -> None:
    """Hold the tables, their constraints and indexes, against those that the program makes."""
    for one in differences(workspace.database):
        report.add("schema_differs", f"table {one.table}", one.message)


def check_sealed(workspace: Workspace, report: Report, only: Collection[Key] | None = None) -> None:
    """Hold every record, or only some, against its seal in the log."""
    with workspace.database.read() as session:
        report.checked["record"] = count_records(session) if only is None else len(only)
        for found in check_records(session, only):
            report.add(found.code, found.subject, found.message)
        for found in check_spellings(session, only):
            report.add(found.code, found.subject, found.message)
        if only is None:
            with in_order(report, "the history of records"):
                for found in (*check_alias_moves(session), *check_rewritten(session)):
                    report.add(found.code, found.subject, found.message)
        with in_order(report, "amendments"):
            for found in check_amendments(session, only):
                report.add(found.code, found.subject, found.message)


def check_claims(workspace: Workspace, report: Report) -> None:
    """Report claims and leases that end later than any command sets: until then they block others."""
    with workspace.database.read() as session:
        for table in (tables.Intent, tables.Lease):
            late = table.expires > Database.clock() + LONGEST
            count = session.scalar(select(func.count()).select_from(table).where(late))
            if count:
                name = table.__tablename__
                message = f"{plural(count, 'row')} of {name} end later than any command sets, and block others until then"
                report.add("claim_too_long", name, message)


def note_garbage(workspace: Workspace, report: Report) -> None:
    """Count what lies in the store and belongs to nothing, and what was put aside."""
    store = workspace.store
    with workspace.database.read() as session:
        known = dict(session.execute(select(tables.Blob.digest, tables.Blob.generation)).all())
        files = tables.ManifestFile
        referenced = set(session.scalars(select(files.blob).where(files.blob.is_not(None))))
        blob = tables.Blob
        ready = dict(session.execute(select(blob.digest, blob.size).where(blob.state == "ready")).all())
    for digest in sorted(ready.keys() - referenced, key=str):
        with suppress(ValueError, TypeError):  # what is no digest was named before
            size = store.size(Digest(digest), generation=known[digest])
            if size is None:
                report.notes.append(f"blob {digest} belongs to nothing, and is gone")
            elif size != ready[digest]:
                message = f"unreferenced blob {digest} has {size} bytes, and its row records {ready[digest]}"
                report.notes.append(message)
    unused = [
        blob
        for blob in store.blobs()
        if blob.digest not in referenced or known.get(blob.digest) != blob.generation
    ]
    if unused:
        total = sum(blob.size for blob in unused)
        report.notes.append(f"{plural(len(unused), 'blob')}, {shown_size(total)}, belong to nothing")
    strays = sorted(store.strays())
    if strays:
        names = [one if one.isprintable() else repr(one) for one in strays[:_SHOWN]]
        more = f" and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
        report.notes.append(f"files in the store that fusery did not write: {', '.join(names)}{more}")
    leftovers = list(store.leftovers())
    if leftovers:
        report.notes.append(f"in the store: {plural(len(leftovers), 'part file')} of interrupted writes")
    report.quarantined = sorted(found.name for found in store.quarantined())
