"""Auditable items: every record that has files, with its manifest and where its files are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.sql.base import ExecutableOption

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import Manifest

from .. import tables
from ..database.sealing import Key
from ..records.fused_label import label_with_key
from ..records.references import resolve_any
from .report import Report

if TYPE_CHECKING:
    from ..workspace import Workspace

_BATCH = 200


@dataclass(frozen=True, slots=True)
class AuditableItem:
    """One record with its manifest, and where its files are besides the store: a folder, or nowhere.

    `stored` are the paths whose bytes are in the store; `key` is set of a fused artifact.  `file` is set of
    what is one file in a folder of the user's, under a name of the user's.  `records` are the rows that say all this.
    """

    kind: str
    name: str
    digest: str
    manifest: Manifest
    stored: frozenset[str]
    folder: Path | None
    key: Digest | None = None
    file: Path | None = None
    records: frozenset[Key] = frozenset()


def auditable_items(
    session: Session, workspace: Workspace, references: tuple[str, ...], report: Report
) -> Iterator[AuditableItem]:
    """Yield all records, or those that references name with the bases and adapters they came from.

    Args:
        session: of any transaction.
        workspace: the registry's parts.
        references: adapters, bases and fused artifacts; none for everything.
        report: told of lists of files that have another digest, and, without references, of records in which a value
            is none of its column's.

    Raises:
        UnknownReferenceError: a reference names nothing.
    """
    if not references:
        for table in (tables.BaseModel, tables.Calibration, tables.Adapter, tables.Fused, tables.Bundle):
            numbers = session.scalars(select(table.id).order_by(table.id)).all()
            for start in range(0, len(numbers), _BATCH):
                yield from _all(session, workspace, table, numbers[start : start + _BATCH], report)
        return
    rows: dict[tuple[str, str], Any] = {}
    for reference in references:
        subject = resolve_any(session, reference)
        chain: list[Any] = [subject.base or subject.adapter or subject.fused]
        if subject.fused:
            summed = [extra.adapter for extra in subject.fused.extras]
            chain += [subject.fused.adapter, *summed, subject.fused.base]
        elif subject.adapter:
            chain += [subject.adapter.base]
        chain += _origins([row for row in chain if isinstance(row, tables.Adapter)])
        chain += [made for row in chain if isinstance(row, tables.BaseModel) for made in row.calibrations]
        rows |= {(type(row).__name__, row.digest): row for row in chain}
    for row in rows.values():
        item = _item(row, workspace)
        yield from _checked([(item, item.manifest.digest)], report)


def _origins(adapters: Sequence[tables.Adapter]) -> list[Any]:
    """Return the adapters that some were continued or computed from, however far away, each with its base."""
    seen, left, found = {row.id for row in adapters}, list(adapters), list[Any]()
    while left:
        row = left.pop()
        for origin in filter(None, (row.parent, *(each.source for each in row.sources))):
            if origin.id not in seen:
                seen.add(origin.id)
                left.append(origin)
                found += [origin, origin.base]
    return found


def _all(
    session: Session, workspace: Workspace, table: Any, numbers: Sequence[int], report: Report
) -> Iterator[AuditableItem]:
    try:
        query = select(table).where(table.id.in_(numbers)).order_by(table.id)
        rows = session.scalars(query.options(*_ahead(table)))
        found = [(item, item.manifest.digest) for item in (_item(row, workspace) for row in rows)]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, FuseryError) as error:
        if len(numbers) == 1:
            session.expunge_all()
            name = f"row {numbers[0]} of {table.__tablename__}"
            report.add(
                "record_unreadable",
                name,
                f"{name} cannot be read: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}",
            )
            return
        middle = len(numbers) // 2
        yield from _all(session, workspace, table, numbers[:middle], report)
        yield from _all(session, workspace, table, numbers[middle:], report)
    else:
        yield from _checked(found, report)


def _ahead(table: Any) -> Sequence[ExecutableOption]:
    """Return what is to be read with the rows of a table, in a few statements for all of them."""
    files = [selectinload(table.manifest).selectinload(tables.Manifest.files)]
    if table is not tables.Adapter:
        return files
    parts = (table.amendments, table.evaluations, table.renderings)
    return [*files, *map(selectinload, parts)]


def _checked(found: Iterable[tuple[AuditableItem, Digest]], report: Report) -> Iterator[AuditableItem]:
    """Yield records, and name those whose list of files has another digest than is recorded."""
    for item, digest in found:
        if digest != item.digest:
            report.add("manifest_changed", item.name, "the list of files does not have the recorded digest")
        yield item


def _item(row: Any, workspace: Workspace) -> AuditableItem:
    files = row.manifest.files
    manifest = Manifest(tuple(file.entry for file in files))
    stored = frozenset(file.path for file in files if file.blob is not None)
    kind, name, folder, key = "bundle", "", None, None
    if isinstance(row, tables.BaseModel):
        kind, name = "base", row.name
        folder = Path(row.location) if row.location else None
    elif isinstance(row, tables.Calibration):
        kind, name = "calibration", f"{row.base.name} calibrated ({row.prompts}, {row.digest[:12]})"
    elif isinstance(row, tables.Adapter):
        kind, name = "adapter", row.name
    elif isinstance(row, tables.Fused):
        kind, name, key = "fused", label_with_key(row), Digest(row.key)
        entry = workspace.cache.entry(key)
        folder = entry if entry.exists() else None
    else:
        return _bundle(row, manifest)
    return AuditableItem(kind, name, row.digest, manifest, stored, folder, key, records=_records(kind, row))


def _records(kind: str, row: Any) -> frozenset[Key]:
    """Return a row's own record and those that it is nothing without."""
    found = {(kind, row.id), ("manifest", row.manifest_id)}
    if isinstance(row, tables.Adapter):
        found.add(("task", row.task_id))
        if row.dataset_id is not None:
            found.add(("dataset", row.dataset_id))
        found |= {("amendment", each.id) for each in row.amendments}
        found |= {("evaluation", each.id) for each in row.evaluations}
        found |= {("manifest", rendering.manifest_id) for rendering in row.renderings}
    return frozenset(found)


def _bundle(row: tables.Bundle, manifest: Manifest) -> AuditableItem:
    """Return a bundle: a folder, or one file in a folder of the user's; what is at a URL is not this machine's."""
    place = Path(row.path)
    if place.is_file() and len(manifest.files) == 1:
        return AuditableItem("bundle", row.path, row.digest, manifest, frozenset(), place.parent, file=place)
    folder = place if place.is_dir() else None
    return AuditableItem("bundle", row.path, row.digest, manifest, frozenset(), folder)
