"""Convert table rows to JSON for a backup: the same for SQLite and PostgreSQL.

The backup names the kind of each column, so that a later version of fusery with other tables can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import BigInteger, Boolean, Date, Double, String, Table, exists, select, types
from sqlalchemy.orm import Session
from sqlalchemy.sql import collate, column, table

from fusery.storage.digest import Digest
from fusery.storage.interface import Blob

from .. import tables
from ..tables.record import DOCUMENT, UtcDateTime
from ..tables.values import kind_of, to_json

Row = dict[str, Any]

LEASE = "backup"
"""The key of the lease that prevents two concurrent backups of one registry; backups do not include it."""

_BATCH = 1000

_TYPES: Mapping[str, Callable[[], types.TypeEngine[Any]]] = {
    "moment": UtcDateTime,
    "boolean": Boolean,
    "integer": BigInteger,
    "number": Double,
    "date": Date,
    "document": lambda: DOCUMENT,
    "text": String,
}
KINDS = frozenset(_TYPES)


def all_tables() -> list[Table]:
    """Return the tables of the schema, each after those that it references."""
    return list(tables.metadata.sorted_tables)


def light_table(name: str, kinds: Mapping[str, str]) -> Any:
    """Return a table with these columns for inserts, independent of the current schema."""
    return table(name, *(column(one, _TYPES[kind]()) for one, kind in kinds.items()))


def table_rows(session: Session, source: Table) -> Iterator[Row]:
    """Yield the rows of a table as JSON values, ordered by primary key.

    - Intents are omitted: they belong to running commands.
    - Leases are released, and keep their fence.
    - A blob without references is recorded as absent: a backup does not have its bytes.
    """
    rows = _stored_rows(session, source)
    if source.name == tables.Intent.__tablename__:
        return
    if source.name == tables.Lease.__tablename__:
        yield from ({**row, "owner": "", "expires": 0.0} for row in rows if row["key"] != LEASE)
    elif source.name == tables.Blob.__tablename__:
        blob = tables.ManifestFile.blob
        referenced = set(session.scalars(select(blob).where(blob.is_not(None)).distinct()))
        for row in rows:
            state = row["state"] if row["digest"] in referenced else "absent"
            yield {**row, "state": state, "tomb_expires": None}
    else:
        yield from rows


def needed_blobs(session: Session) -> Iterator[Blob]:
    """Yield the blobs that files of manifests refer to."""
    file, blob = tables.ManifestFile, tables.Blob
    query = select(blob.digest, blob.size, blob.generation).where(exists().where(file.blob == blob.digest))
    for row in session.execute(query.order_by(blob.digest).execution_options(yield_per=_BATCH)):
        yield Blob(Digest(row.digest), row.size, row.generation)


def _stored_rows(session: Session, source: Table) -> Iterator[Row]:
    kinds = {one.name: kind_of(one) for one in source.columns}
    # By default, PostgreSQL orders strings by the server's locale.
    plain = session.get_bind().dialect.name == "postgresql"
    key = source.primary_key.columns
    order = [collate(one, "C") if plain and isinstance(one.type, String) else one for one in key]
    for found in session.execute(
        select(source).order_by(*order).execution_options(yield_per=_BATCH)
    ).mappings():
        yield {name: to_json(kind, found[name]) for name, kind in kinds.items()}
