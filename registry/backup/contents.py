"""Which rows a backup has: all of every table, but for what only meant something to the commands that were running."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Select, Table, exists, select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.interface import Blob

from .. import tables
from .rows import Row, stored_rows

_BATCH = 1000

LEASE = "backup"
"""The key of the lease that keeps two backups of one registry apart; not part of any backup itself."""


def all_tables() -> list[Table]:
    """Return the tables of the schema, each after those it refers to."""
    return list(tables.metadata.sorted_tables)


def table_rows(session: Session, source: Table) -> Iterator[Row]:
    """Yield the rows of a table as they go into a backup.

    - Intents are claims of commands that run now, and end with them.
    - Leases are free, and keep their fence.
    - A blob that nothing refers to is recorded as absent: a backup does not have its bytes.
    """
    rows = stored_rows(session, source)
    if source.name == tables.Intent.__tablename__:
        return iter(())
    if source.name == tables.Lease.__tablename__:
        return ({**row, "owner": "", "expires": 0.0} for row in rows if row["key"] != LEASE)
    if source.name == tables.Blob.__tablename__:
        return _blobs(rows, set(session.scalars(_referenced().distinct())))
    return rows


def _blobs(rows: Iterator[Row], referenced: set[str | None]) -> Iterator[Row]:
    for row in rows:
        state = row["state"] if row["digest"] in referenced else "absent"
        yield {**row, "state": state, "tomb_expires": None}


def _referenced() -> Select[str | None]:
    return select(tables.ManifestFile.blob).where(tables.ManifestFile.blob.is_not(None))


def needed_blobs(session: Session) -> Iterator[Blob]:
    """Yield the blobs that a file of a manifest has its bytes in."""
    file, blob = tables.ManifestFile, tables.Blob
    query = select(blob.digest, blob.size, blob.generation).where(exists().where(file.blob == blob.digest))
    for row in session.execute(query.order_by(blob.digest).execution_options(yield_per=_BATCH)):
        yield Blob(Digest(row.digest), row.size, row.generation)
