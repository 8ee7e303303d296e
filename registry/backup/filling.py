"""Insert the rows of a backup into an empty database in one transaction, and check them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import FormatError, UnsafePathError
from fusery.storage.manifest import FileEntry, Manifest

from .. import tables
from ..audit.upgrade import bring_up
from ..database import Database, events
from ..database.schema import HEAD, VERSION_TABLE, move
from .catalogue import Catalogue, Position
from .errors import NotEmptyError
from .reading import Backup
from .rows import all_tables, light_table

_BATCH = 500
_EMPTY, _TIMES = 4 << 20, 4
"""Bytes of an empty database, and per byte of the rows as text; both include the write-ahead log."""


def database_size(catalogue: Catalogue) -> int:
    """Return the maximum size in bytes of a database with a backup's rows."""
    return _EMPTY + _TIMES * sum(file.size for file in catalogue.files)


def entry_beyond(connection: Connection, copied_from: str | None = None) -> str | None:
    """Return the action of a log entry that shows that a registry is not empty; None if it is empty.

    Args:
        connection: a connection to a database with the current schema.
        copied_from: the id of a registry; ignore entries of base models and of records copied from it.
    """
    event = tables.Event
    query = select(event.action, event.subject_kind, event.detail).where(event.action != "registry.made")
    for action, kind, detail in connection.execute(query.execution_options(yield_per=_BATCH)):
        base = copied_from is not None and kind in ("base", "registry")
        if base or (action.endswith(".received") and json.loads(detail)["origin"]["registry"] == copied_from):
            continue
        return str(action)
    return None


def fill_temporary(backup: Backup, folder: Path, *, actor: str) -> str:
    """Insert a backup's rows into a temporary database, and return its URL.

    Args:
        backup: the backup; its files have been fetched.  All its blobs have generation 0 in its store.
        folder: the folder for the database.
        actor: the user who restores.

    Raises:
        BackupError: the rows are invalid.
    """
    url = f"sqlite:///{folder / 'rows.db'}"
    with closing(Database.open(url)) as database, database.schema_change() as connection:
        fill(connection, backup, store_id=backup.catalogue.store, generations={}, actor=actor)
    return url


def fill(
    connection: Connection,
    backup: Backup,
    *,
    store_id: str,
    generations: Mapping[Digest, int],
    actor: str,
) -> None:
    """Insert all rows in the backup's schema revision, and upgrade the schema to this version's.

    Args:
        connection: the connection of a schema change, which is the only writer.
        backup: the backup; its files have been fetched.
        store_id: the id of the store that now has the blobs.
        generations: the generation of each blob in that store; 0 if missing.
        actor: the user who restores.

    Raises:
        BackupError: the rows are invalid; roll back the transaction.
        NotEmptyError: somebody wrote to the registry meanwhile.
    """
    _clear(connection)
    move(connection, backup.catalogue.schema)
    _require_tables(connection, backup)
    for file in backup.catalogue.tables:
        rows = backup.rows(file)
        if file.table == tables.Blob.__tablename__:
            rows = ({**row, "generation": generations.get(row["digest"], 0)} for row in rows)
        elif file.table == tables.Registry.__tablename__:
            rows = ({**row, "store_id": store_id} for row in rows)
        try:
            target = insert(light_table(file.table, file.columns))
            while batch := list(itertools.islice(rows, _BATCH)):
                connection.execute(target, batch)
        except (DBAPIError, LookupError) as error:
            raise backup.refuse(file.name, "has invalid rows: the database refuses them") from error
    try:
        move(connection, HEAD)
        _continue_numbers(connection)
        with Session(bind=connection) as session:
            _require_log(session, backup)
            _require_manifests(session, backup)
            _require_blobs(session, backup)
            bring_up(session, backup.catalogue.schema, actor=actor)
            session.flush()
    except (DBAPIError, ValueError, TypeError, LookupError) as error:
        raise backup.refuse("backup.json", "lists files with invalid rows") from error


def _clear(connection: Connection) -> None:
    """Remove the initial rows of a new registry, if it has a schema."""
    if not inspect(connection).has_table(tables.Registry.__tablename__):
        return
    if (action := entry_beyond(connection)) is not None:
        raise NotEmptyError(
            f"the registry is no longer empty: its log has {action}",
            hint="restore into an empty registry",
        )
    for table in reversed(all_tables()):
        connection.execute(delete(table))


def _require_tables(connection: Connection, backup: Backup) -> None:
    present = set(inspect(connection).get_table_names()) - {VERSION_TABLE}
    named = {file.table for file in backup.catalogue.tables}
    if strange := sorted(named - present):
        raise backup.refuse(f"{strange[0]}.ndjson", "belongs to no table")
    if missing := sorted((present & {table.name for table in all_tables()}) - named):
        raise backup.refuse(f"{missing[0]}.ndjson", "is missing")


def _continue_numbers(connection: Connection) -> None:
    """Set PostgreSQL's sequences to the largest ids; SQLite does so itself."""
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


def _require_log(session: Session, backup: Backup) -> None:
    for problem in events.verify_chain(session):
        raise backup.refuse("event.ndjson", f"breaks the chain of the log: {problem.message}")
    if backup.catalogue.last_event != Position.newest(session):
        raise backup.refuse("event.ndjson", "does not end with the entry that the backup names")


def _require_manifests(session: Session, backup: Backup) -> None:
    """Check the digest of each manifest, and that each record has the digest of its manifest."""
    file, manifest = tables.ManifestFile, tables.Manifest
    query = (
        select(manifest.id, manifest.digest, file.path, file.size, file.sha256)
        .join(file, file.manifest_id == manifest.id, isouter=True)
        .order_by(manifest.id, file.path)
        .execution_options(yield_per=_BATCH)
    )
    for (_, digest), rows in itertools.groupby(session.execute(query), lambda row: (row[0], row[1])):
        entries = [FileEntry(row.path, row.size, Digest(row.sha256)) for row in rows if row.path is not None]
        try:
            same = Manifest.of(entries).digest == digest
        except (UnsafePathError, FormatError):
            same = False
        if not same:
            raise backup.refuse(
                "manifest_file.ndjson", f"has files of manifest {digest[:12]} that do not have its digest"
            )
    for table in (
        tables.BaseModel,
        tables.Calibration,
        tables.Adapter,
        tables.AdapterRendering,
        tables.Fused,
    ):
        others = select(table.digest).join(manifest, table.manifest_id == manifest.id)
        if (digest := session.scalar(others.where(table.digest != manifest.digest).limit(1))) is not None:
            name = f"{table.__tablename__}.ndjson"
            raise backup.refuse(name, f"has a record whose digest {digest[:12]} is not that of its manifest")


def _require_blobs(session: Session, backup: Backup) -> None:
    """Check that the backup's blobs are those that the manifests refer to."""
    file, blob = tables.ManifestFile, tables.Blob
    needed = set(session.scalars(select(file.blob).where(file.blob.is_not(None)).distinct()))
    if needed != set(session.scalars(select(blob.digest).where(blob.state != "absent"))):
        raise backup.refuse("blob.ndjson", "does not list the blobs that the manifests refer to")
