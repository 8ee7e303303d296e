"""Auditable items, with their manifests and the location of their files; checks of blobs, folders, the log and the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, object_session, selectinload

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StorageError
from fusery.storage.manifest import Manifest

from .. import tables
from ..adapters import some
from ..database import Database, events
from ..database.engine import batches
from ..database.leases import LONGEST
from ..database.sealing import Key
from ..engine.config import WEIGHTS
from ..parsing import plural, shown_size
from ..provenance.trace import DOWN, nodes_of, walk
from ..records.alias_moves import text_of
from ..records.bundles import is_remote
from ..records.fused_rows import label_with_key
from ..records.references import resolve_any
from ..workspace.workspace import Workspace
from .history import check_alias_moves, check_amendments, check_history
from .records import SealLog, check_records, check_spellings, check_table, count_records
from .report import UNREADABLE, Damage, Problem, Report, in_order

_TABLES: tuple[Any, ...] = (
    tables.BaseModelRow,
    tables.CalibrationRow,
    tables.AdapterRow,
    tables.FusedRow,
    tables.BundleRow,
)


@dataclass(frozen=True, slots=True)
class AuditableItem:
    """One record with its manifest, the paths whose bytes are in the store, and the folder or file that it also has."""

    kind: str
    number: int
    name: str
    digest: str
    manifest: Manifest
    stored: frozenset[str]
    folder: Path | None
    key: Digest | None
    file: Path | None
    records: frozenset[Key]


def auditable_items(
    session: Session, workspace: Workspace, references: tuple[str, ...], report: Report
) -> Iterator[AuditableItem]:
    """Yield all records, or those that references name with the bases and adapters they came from."""
    reached: dict[str, set[int]] | None = None
    if references:
        rows = [resolve_any(session, reference) for reference in references]
        reached = defaultdict[str, set[int]](set)
        for kind, number in walk(session, [(row.__tablename__, row.id) for row in rows], up=True)[0]:
            reached[kind].add(number)
        bases, made = reached[tables.BaseModelRow.__tablename__], tables.CalibrationRow
        reached[made.__tablename__] = set(session.scalars(select(made.id).where(made.base_id.in_(bases))))
    for table in _TABLES:
        ids = session.scalars(select(table.id)) if reached is None else reached.get(table.__tablename__, ())
        for numbers in batches(sorted(ids)):
            yield from _load(session, workspace, table, numbers, report)


def _load(
    session: Session, workspace: Workspace, table: Any, numbers: Sequence[int], report: Report
) -> Iterator[AuditableItem]:
    query = select(table).where(table.id.in_(numbers)).order_by(table.id)
    query = query.options(selectinload(table.manifest).selectinload(tables.ManifestRow.files))
    if table is tables.AdapterRow:
        query = query.options(*map(selectinload, (table.amendments, table.evaluations, table.renderings)))
    try:
        loaded_items = [_item(row, workspace) for row in session.scalars(query)]
        digests = [item.manifest.digest for item in loaded_items]
    except (OSError, *UNREADABLE) as error:
        if len(numbers) > 1:
            for number in numbers:
                yield from _load(session, workspace, table, [number], report)
            return
        session.expunge_all()
        name = f"row {numbers[0]} of {table.__tablename__}"
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        report.add("record_unreadable", name, f"cannot read {name}: {reason}")
        return
    for item, digest in zip(loaded_items, digests, strict=True):
        if digest != item.digest:
            report.add("manifest_changed", item.name, "the file list does not match the recorded digest")
        yield item


def _item(row: Any, workspace: Workspace) -> AuditableItem:
    files, folder, key, file = row.manifest.files, None, None, None
    kind = row.__tablename__.removesuffix("_model")
    records = {(kind, row.id), ("manifest", row.manifest_id)}
    if isinstance(row, tables.BaseModelRow):
        name, folder = row.name, Path(row.location) if row.location else None
    elif isinstance(row, tables.CalibrationRow):
        name = f"{row.base.name} calibrated ({row.prompts}, {row.digest[:12]})"
    elif isinstance(row, tables.AdapterRow):
        name = row.name
        records |= {("task", row.task_id)} | ({("dataset", row.dataset_id)} if row.dataset_id else set())
        records |= {("amendment", amendment.id) for amendment in row.amendments}
        records |= {("evaluation", evaluation.id) for evaluation in row.evaluations}
        records |= {("manifest", rendering.manifest_id) for rendering in row.renderings}
    elif isinstance(row, tables.FusedRow):
        name, key = label_with_key(row), Digest(row.key)
        entry = workspace.cache.entry(key)
        folder = entry if entry.exists() else None
    else:  # a bundle: a folder, or one file in a folder of the user's; what is at a URL is not this machine's
        name, place, session = row.path, Path(row.path), object_session(row)
        assert session is not None
        records = set()
        if not is_remote(session, row):
            file = place if place.is_file() and len(files) == 1 else None
            folder = place.parent if file else place if place.is_dir() else None
    manifest = Manifest(tuple(one.entry for one in files))
    stored = frozenset(one.path for one in files if one.blob is not None and kind != "bundle")
    identity = kind, row.id, name, row.digest, manifest, stored
    return AuditableItem(*identity, folder, key, file, frozenset(records))


Trouble = tuple[str, str] | None  # code and message of a problem with a blob; None if it is whole

_FOLDER_CODES = {"base": "reference", "fused": "cache", "bundle": "bundle"}


def blobs_of(session: Session, items: Sequence[AuditableItem]) -> dict[AuditableItem, dict[Damage, str]]:
    """Return the blobs of each record that no earlier record has, as they are recorded, with the path of a file of each."""
    blob, recorded = tables.BlobRow, dict[str, tuple[str, int, int]]()
    wanted = {
        entry.sha256: (item, entry)
        for item in reversed(items)
        for entry in reversed(tuple(item.manifest))
        if entry.path in item.stored
    }
    for chosen in batches(wanted):
        query = select(blob.digest, blob.state, blob.generation, blob.size).where(blob.digest.in_(chosen))
        recorded |= {row.digest: (row.state, row.generation, row.size) for row in session.execute(query)}
    blobs: dict[AuditableItem, dict[Damage, str]] = {item: {} for item in items}
    for digest, (item, entry) in reversed(wanted.items()):
        state, generation, size = recorded.get(digest, ("absent", 0, None))
        blobs[item][Damage(digest, entry.size, generation, state, size)] = entry.path
    return blobs


def check_blob(workspace: Workspace, damage: Damage, subject: str, trouble: Trouble, report: Report) -> None:
    """Report a blob as read, with its problem and dependants."""
    report.checked["blob"] += 1
    if trouble is not None:
        with workspace.database.read() as session:
            relying = _dependants_of_blob(session, damage.digest)
        report.add(trouble[0], subject, trouble[1], damage=damage, dependants=relying)


def trouble_of(workspace: Workspace, damage: Damage, place: Path | None = None) -> Trouble:
    """Verify a blob, and copy it to `place` if given; return the code and message of a problem."""
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
    except StorageError as error:  # an unavailable store does not prove that a blob is damaged or whole
        return "blob_unreadable", error.message
    except (ValueError, TypeError):  # SQLite keeps any value
        return "blob_unreadable", f"invalid values in the record of blob {damage.digest}"
    if damage.recorded_size not in (None, damage.size):
        sizes = f"{damage.size} bytes (recorded: {damage.recorded_size})"
        return "blob_size_differs", f"wrong size of blob {damage.digest}: {sizes}"
    return None


def check_folder(workspace: Workspace, item: AuditableItem) -> Report:
    """Compare the files of a folder outside the store with the manifest, and return the findings."""
    report, kind = Report(), _FOLDER_CODES[item.kind]
    assert item.folder is not None
    damage: Damage | None = None
    relying: tuple[str, ...] = ()
    with in_order(report, item.name):
        file_problems: list[tuple[str, str, str]] = []
        for entry in item.manifest:
            path = item.file or item.folder / entry.path
            try:
                digest, size = digest_file(path)
            except (OSError, StorageError):
                file_problems.append(("missing", entry.path, f"file missing or unreadable: {path}"))
                continue
            if (digest, size) != (entry.sha256, entry.size):
                expected = f"recorded: {entry.size} bytes, digest {entry.sha256[:12]}"
                message = f"file changed: {path} ({size} bytes, digest {digest[:12]}; {expected})"
                file_problems.append(("changed", entry.path, message))
        recorded = {entry.path for entry in item.manifest}
        for path in sorted(item.folder.rglob("*")) if item.file is None else ():
            name = path.relative_to(item.folder).as_posix()
            # Files that look like part of it; of a base model, weights only.
            is_part = WEIGHTS.fullmatch(name) if item.kind == "base" else not path.name.startswith(".")
            if path.is_file() and name not in recorded and is_part:
                file_problems.append(("added", name, f"unexpected file: {path}"))
        if file_problems and item.key is not None:
            damage = Damage(item.key, item.manifest.size, state="cached")
            with workspace.database.read() as session:
                relying = _dependants_of_fused(session, item.key)
        for verb, name, message in file_problems:
            report.add(f"{kind}_{verb}", f"{item.name}: {name}", message, relying, damage)
    return report


def check_events(workspace: Workspace, report: Report) -> None:
    """Verify the chain of the log."""
    with workspace.database.read() as session:
        newest = events.last(session)
        report.checked["event"] = newest.seq if newest else 0
        for seq, message in events.verify_chain(session):
            report.add("event_chain", f"event {seq}", message)
        report.problems += check_table(session, tables.metadata.tables["event"])


def check_claims(session: Session, log: SealLog) -> Iterator[Problem]:
    """Yield claims and leases that end later than any command sets, and block other commands until then."""
    for table in (tables.IntentRow, tables.LeaseRow) if log.only is None else ():
        late = table.expires > Database.clock() + LONGEST
        if count := session.scalar(select(func.count()).select_from(table).where(late)):
            name = table.__tablename__
            message = f"{plural(count, 'row')} of {name} end later than any command sets, and block others until then"
            yield Problem("claim_too_long", name, message)


Check = Callable[[Session, SealLog], Iterator[Problem]]

CHECKS: Mapping[str, Check] = {
    "the records": check_records,
    "the stored values": check_spellings,
    "the aliases": check_alias_moves,
    "the history of records": check_history,
    "amendments": check_amendments,
    "claims": check_claims,
}
"""Checks of the database by their names in notes about checks that failed."""


def check_sealed(workspace: Workspace, report: Report, only: Collection[Key] | None = None) -> None:
    """Run every check of the database, of all records or of some."""
    with workspace.database.read() as session, SealLog(session, only) as log:
        report.checked["record"] = count_records(session) if only is None else len(only)
        for name, check in CHECKS.items():
            with in_order(report, name):
                report.problems += check(session, log)


def note_garbage(workspace: Workspace, report: Report) -> None:
    """Note unreferenced blobs, foreign and temporary files in the store, and list quarantined blobs."""
    store, blob, files = workspace.store, tables.BlobRow, tables.ManifestFileRow
    with workspace.database.read() as session:
        rows = session.execute(select(blob.digest, blob.generation, blob.size, blob.state)).all()
        referenced = set(session.scalars(select(files.blob).where(files.blob.is_not(None))))
    stored, generations = list(store.blobs()), {row.digest: row.generation for row in rows}
    sizes = {(one.digest, one.generation): one.size for one in stored}
    for row in sorted(rows, key=lambda row: str(row.digest)):
        if row.state == "ready" and row.digest not in referenced:
            size = sizes.get((row.digest, row.generation))
            if size is None or size != row.size:
                message = "missing in the store" if size is None else f"{size} bytes (recorded: {row.size})"
                report.notes.append(f"unreferenced blob {row.digest}: {message}")
    used = {(digest, generations.get(digest)) for digest in referenced}
    if unused := [size for blob_, size in sizes.items() if blob_ not in used]:
        report.notes.append(f"{plural(len(unused), 'unreferenced blob')}, {shown_size(sum(unused))}")
    if strays := [one if one.isprintable() else repr(one) for one in store.strays()]:
        report.notes.append(f"files in the store that fusery did not write: {some(strays)}")
    if leftovers := list(store.leftovers()):
        report.notes.append(f"{plural(len(leftovers), 'part file')} of interrupted writes in the store")
    report.quarantined = sorted(one.name for one in store.quarantined())


def _dependants_of_blob(session: Session, digest: str) -> tuple[str, ...]:
    """Return the records that have a blob, and everything made from them, as `kind name`, or by their rows if invalid."""
    files, made = tables.ManifestFileRow, tables.CalibrationRow
    manifests = select(files.manifest_id).where(files.blob == digest)
    starts = [
        (table.__tablename__, number)
        for table in (tables.BaseModelRow, tables.AdapterRow, tables.FusedRow, tables.BundleRow)
        for number in session.scalars(select(table.id).where(table.manifest_id.in_(manifests)))
    ]
    reached, _ = walk(session, starts, up=False)
    keys = sorted(reached, key=lambda key: (DOWN.index(key[0]), key[1]))
    try:
        named = [f"{node.kind} {node.name}" for node in nodes_of(session, keys).values()]
    except UNREADABLE:
        session.expunge_all()
        named = [f"row {number} of {table}" for table, number in keys]
    calibrations = session.scalars(select(made.digest).where(made.manifest_id.in_(manifests)))
    return (*dict.fromkeys(named), *(f"calibration {made_digest[:12]}" for made_digest in calibrations))


def _dependants_of_fused(session: Session, key: str) -> tuple[str, ...]:
    fused, bundle, alias = tables.FusedRow, tables.BundleRow, tables.AliasRow
    row = session.scalars(select(fused).where(fused.key == key)).one()
    bundles = session.scalars(select(bundle).where(bundle.fused_id == row.id).order_by(bundle.id))
    aliases = session.scalars(select(alias).where(alias.adapter_id == row.adapter_id).order_by(alias.id))
    return (
        f"adapter {row.adapter.name}",
        *(f"bundle {bundle_row.path}" for bundle_row in bundles),
        *(f"alias {text_of(alias_row)}" for alias_row in aliases),
    )
