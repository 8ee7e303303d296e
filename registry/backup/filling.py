"""Filling an empty database with the rows of a backup, in the caller's transaction, and checking what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, inspect, literal, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry, Manifest

from .. import tables
from ..audit.upgrade import bring_up
from ..database import events
from ..database.schema import HEAD, VERSION_TABLE, move
from .catalogue import BLOBS, File, Position
from .contents import all_tables
from .errors import NotEmptyError
from .reading import Backup
from .rows import Row, light_table

_BATCH = 500
_NEW = frozenset({"registry", "event", "intent", "lease"})
"""Tables that a new registry has rows in, or may have."""


def first_used(connection: Connection) -> str | None:
    """Return the name of a table with rows that a new registry does not have, None if there is none."""
    for table in all_tables():
        query = select(literal(1)).select_from(table)
        if table.name == tables.Event.__tablename__:
            query = query.where(table.c.action != "registry.made")
        elif table.name in _NEW:
            continue
        if connection.execute(query.limit(1)).first() is not None:
            return table.name
    return None


def fill(
    connection: Connection,
    found: Backup,
    *,
    store_id: str,
    generations: Mapping[Digest, int],
    stored: AbstractSet[Digest],
    actor: str,
    afterwards: Callable[[Session], None] = lambda _: None,
) -> None:
    """Insert all rows, at the revision that the backup is of, and go up to this program's.

    Args:
        connection: of a schema change, which makes this the only writer.
        found: the backup.
        store_id: that of the store which the bytes are in now.
        generations: of each blob, in that store.
        stored: the blobs that are in it.
        actor: who restores.
        afterwards: what else is to be done in that transaction.

    Raises:
        BackupError: the rows cannot be right; nothing may be committed.
        NotEmptyError: somebody has registered something meanwhile.
    """
    _clear(connection)
    move(connection, found.catalogue.schema)
    _require_tables(connection, found)
    for file in found.catalogue.tables:
        rows = found.rows(file)
        if file.table == tables.Blob.__tablename__:
            rows = ({**row, "generation": generations[row["digest"]]} for row in rows)
        elif file.table == tables.Registry.__tablename__:
            rows = ({**row, "store_id": store_id} for row in rows)
        try:
            _insert(connection, file, rows)
        except DBAPIError as error:
            raise found.refuse(file.name, "has rows that the database does not take") from error
    move(connection, HEAD)
    _continue_numbers(connection)
    with Session(bind=connection) as session:
        _require_log(session, found)
        _require_lists(session, found)
        _require_blobs(session, found, stored)
        bring_up(session, found.catalogue.schema, actor=actor)
        afterwards(session)
        session.flush()


def _clear(connection: Connection) -> None:
    """Remove what a new registry has; there is nothing to remove where there is no schema yet."""
    if not inspect(connection).has_table(tables.Registry.__tablename__):
        return
    used = first_used(connection)
    if used is not None:
        raise NotEmptyError(
            f"somebody has written to the registry meanwhile: there are rows in {used}",
            hint="restore into an empty one",
        )
    for table in reversed(all_tables()):
        connection.execute(delete(table))


def _require_tables(connection: Connection, found: Backup) -> None:
    present = set(inspect(connection).get_table_names()) - {VERSION_TABLE}
    named = [file.table for file in found.catalogue.tables]
    for name in sorted(set(named) - present):
        raise found.refuse(f"{name}.ndjson", "belongs to no table")
    for name in sorted((present & {table.name for table in all_tables()}) - set(named)):
        raise found.refuse(f"{name}.ndjson", "is missing")


def _insert(connection: Connection, file: File, rows: Iterator[Row]) -> None:
    target = light_table(file.table, file.columns)
    own = [name for name in _to_itself(tables.metadata.tables.get(file.table)) if name in file.columns]
    later: list[dict[str, Any]] = []
    while batch := list(itertools.islice(rows, _BATCH)):
        for row in batch if own else ():
            # A row may refer to one that comes after it.
            pointed = {f"to_{name}": row[name] for name in own}
            if any(value is not None for value in pointed.values()):
                later.append({"of": row["id"], **pointed})
                row.update(dict.fromkeys(own))
        connection.execute(insert(target), batch)
    if later:
        values: dict[str, Any] = {name: bindparam(f"to_{name}") for name in own}
        connection.execute(target.update().where(target.c.id == bindparam("of")).values(values), later)


def _to_itself(table: Table | None) -> Sequence[str]:
    """Return the columns that refer to their own table."""
    if table is None:
        return ()
    return [
        column.name for column in table.columns for key in column.foreign_keys if key.column.table is table
    ]


def _continue_numbers(connection: Connection) -> None:
    """Let PostgreSQL number on from the largest id; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in all_tables():
        for column in table.primary_key.columns:
            sequence = connection.scalar(
                text("SELECT pg_get_serial_sequence(:table, :column)"),
                {"table": table.name, "column": column.name},
            )
            if sequence is None:
                continue
            largest = connection.scalar(select(func.max(column)))
            connection.execute(
                text("SELECT setval(CAST(:sequence AS regclass), :value, :used)"),
                {"sequence": sequence, "value": largest or 1, "used": largest is not None},
            )


def _require_log(session: Session, found: Backup) -> None:
    for problem in events.verify_chain(session):
        raise found.refuse("event.ndjson", f"breaks the chain of the log: {problem.message}")
    newest = events.last(session)
    last = Position(newest.seq, newest.hash) if newest else Position(0, events.FIRST_PREVIOUS)
    if found.catalogue.last_event != last:
        raise found.refuse("event.ndjson", "does not end with the entry that the backup names")


def _require_lists(session: Session, found: Backup) -> None:
    """Hold every list of files against its digest."""
    file = tables.ManifestFile
    query = (
        select(tables.Manifest.id, tables.Manifest.digest, file.path, file.size, file.sha256)
        .join(file, file.manifest_id == tables.Manifest.id, isouter=True)
        .order_by(tables.Manifest.id, file.path)
        .execution_options(yield_per=_BATCH)
    )
    for (_, digest), rows in itertools.groupby(session.execute(query), lambda row: (row[0], row[1])):
        entries = [FileEntry(row.path, row.size, Digest(row.sha256)) for row in rows if row.path is not None]
        if Manifest.of(entries).digest != digest:
            raise found.refuse(
                "manifest_file.ndjson", f"has other files of {digest[:12]} than its digest says"
            )


def _require_blobs(session: Session, found: Backup, stored: AbstractSet[Digest]) -> None:
    """Every file that is said to be in the store must be one of the blobs that are."""
    file, blob = tables.ManifestFile, tables.Blob
    needed = set(session.scalars(select(file.blob).where(file.blob.is_not(None)).distinct()))
    if needed != stored:
        raise found.refuse(BLOBS, "does not name the blobs that the files of the registry are in")
    ready = set(session.scalars(select(blob.digest).where(blob.state.in_(("ready", "pending")))))
    if not needed <= ready:
        raise found.refuse("blob.ndjson", "has blobs as absent that are there")
