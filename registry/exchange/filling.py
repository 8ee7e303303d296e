"""Check that the registry to restore into is empty, and insert the rows of a backup."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.sql import collate

from fusery.storage.digest import Digest, parse_digest
from fusery.storage.errors import FormatError, UnsafePathError
from fusery.storage.interface import Blob
from fusery.storage.processes import temporary_folder

from .. import tables
from ..database import Database, events
from ..database.schema import HEAD, VERSION_TABLE, create, require, state
from ..errors import RegistryError
from ..record import Record, described
from ..remote.container import Amount, Container, Contents, Member, Position, write_member
from ..tables.record import DOCUMENT, UtcDateTime, from_json, kind_of, to_json
from ..workspace.workspace import Workspace, write_config

_SINCE = {"adapter_sketch": "0002"}  # the revisions of tables that older backups do not have
_BATCH = 1000
_EMPTY, _TIMES = 4 << 20, 4  # bytes of an empty database, and bytes per byte of rows as text, with its log


HINT = "restore into an empty one: name another FUSERY_REGISTRY, or other URLs"


class NotEmptyError(RegistryError):
    """The target registry of a restore is not empty."""


class Restored(Record, kw_only=False):
    """What a restore did."""

    source: str = described("where the backup is")
    made_at: str = described("when it was made")
    rows: Mapping[str, int] = described("how many rows each table has")
    blobs: Amount = described("how many blobs the backup has, and their bytes")
    last_event: Position = described("the newest entry of the log of the backup")


def database_size(rows: Iterable[Member]) -> int:
    """Return the maximum size in bytes of a database with these rows."""
    return _EMPTY + _TIMES * sum(member.size for member in rows)


def _entry_beyond(connection: sa.Connection) -> str | None:
    """Return the action of a log entry that shows that a registry is not empty; None if it is empty."""
    event = tables.EventRow
    return connection.scalar(sa.select(event.action).where(event.action != "registry.made").limit(1))


def require_empty(database: Database) -> str | None:
    """Return the id of the store of an empty registry; None if there is no registry yet."""
    if state(database).status == "empty":
        return None
    require(database, may_create=False)
    with database.read() as session:
        if (action := _entry_beyond(session.connection())) is not None:
            problem = f"the registry in {database.shown} is not empty: its log has {action}"
            raise NotEmptyError(problem, hint=HINT)
        row = session.get(tables.RegistryRow, 1)
        return row.store_id if row else None


def restored_store(database: Database, contents: Contents) -> str | None:
    """Return the id of the store of a registry that has exactly the rows of a backup (but its own generations); else None."""
    if contents.schema != HEAD or state(database).status != "current":
        return None
    own = {tables.BlobRow.__tablename__, tables.RegistryRow.__tablename__}
    with database.read() as session, temporary_folder("rows") as folder:
        if Position.newest(session) != contents.last_event:
            return None
        for member in contents.within("rows"):
            table = tables.metadata.tables.get(member.stem)
            rows = table_rows(session, table) if table is not None else iter(())
            if member.stem not in own and write_member(folder, member.name, rows).sha256 != member.sha256:
                return None
        row = session.get(tables.RegistryRow, 1)
        return row.store_id if row else None


def make_ready(workspace: Workspace) -> None:
    """Open the restored registry, and write its settings file."""
    workspace.close()
    workspace.ensure(explicit=True)
    write_config(workspace.settings)


def fill(
    connection: sa.Connection, backup: Container, *, store_id: str, generations: Mapping[Digest, int]
) -> None:
    """Insert all rows; columns that the backup's older schema revision does not have are null.

    The connection is that of a schema change, which is the only writer; the rows have been fetched.  `generations`
    has the generation of each blob in the store with the id `store_id`; 0 if missing.
    """
    if sa.inspect(connection).has_table(
        tables.RegistryRow.__tablename__
    ):  # the initial rows of a new registry
        if (action := _entry_beyond(connection)) is not None:
            raise NotEmptyError(f"the registry is no longer empty: its log has {action}", hint=HINT)
        for table in reversed(all_tables()):
            connection.execute(sa.delete(table))
    else:
        create(connection)
    present = set(sa.inspect(connection).get_table_names()) - {VERSION_TABLE}
    named = {member.stem for member in backup.contents.within("rows")}
    if strange := sorted(named - present):
        raise backup.refuse(f"rows/{strange[0]}.ndjson", "belongs to no table")
    older = {table for table, revision in _SINCE.items() if backup.contents.schema < revision}
    if missing := sorted((present & {table.name for table in all_tables()}) - named - older):
        raise backup.refuse(f"rows/{missing[0]}.ndjson", "is missing")
    for member in backup.contents.within("rows"):
        rows = read_rows(backup, member)
        if member.stem == tables.BlobRow.__tablename__:
            rows = ({**row, "generation": generations.get(row["digest"], 0)} for row in rows)
        elif member.stem == tables.RegistryRow.__tablename__:
            rows = ({**row, "store_id": store_id} for row in rows)
        try:
            # Columns of the member, not of the current schema.
            columns = [sa.sql.column(name, _TYPES[kind]()) for name, kind in member.columns.items()]
            target = sa.insert(sa.sql.table(member.stem, *columns))
            while batch := list(itertools.islice(rows, _BATCH)):
                connection.execute(target, batch)
        except (DBAPIError, LookupError) as error:
            raise backup.refuse(member.name, "has invalid rows: the database refuses them") from error
    try:
        _continue_numbers(connection)
        with Session(bind=connection) as session:
            for _, message in events.verify_chain(session):
                raise backup.refuse("rows/event.ndjson", f"breaks the chain of the log: {message}")
            if backup.contents.last_event != Position.newest(session):
                raise backup.refuse("rows/event.ndjson", "does not end with the last entry of package.json")
            _require_manifests(session, backup)
            file, blob = tables.ManifestFileRow, tables.BlobRow
            needed = set(session.scalars(sa.select(file.blob).where(file.blob.is_not(None)).distinct()))
            if needed != set(session.scalars(sa.select(blob.digest).where(blob.state != "absent"))):
                raise backup.refuse("rows/blob.ndjson", "does not list the blobs that the manifests refer to")
    except (DBAPIError, ValueError, TypeError, LookupError) as error:
        raise backup.refuse("package.json", "lists files with invalid rows") from error


def _continue_numbers(connection: sa.Connection) -> None:
    """Set PostgreSQL's sequences to the largest ids; SQLite does so itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in all_tables():
        for column in table.primary_key.columns:
            if isinstance(column.type, sa.Integer):
                sequence = sa.cast(sa.func.pg_get_serial_sequence(table.name, column.name), REGCLASS)
                newest = sa.func.max(column)
                next_id = sa.func.setval(sequence, sa.func.coalesce(newest, 1), newest.is_not(None))
                connection.execute(sa.select(next_id))


def _require_manifests(session: Session, backup: Container) -> None:
    """Check the digest of each manifest, and that each record has the digest of its manifest."""
    manifest = tables.ManifestRow
    query = sa.select(manifest).options(selectinload(manifest.files)).execution_options(yield_per=_BATCH)
    for row in session.scalars(query):
        try:
            same = row.value.digest == row.digest
        except (UnsafePathError, FormatError):
            same = False
        if not same:
            problem = f"has files of manifest {row.digest[:12]} that do not have its digest"
            raise backup.refuse("rows/manifest_file.ndjson", problem)
    models = (tables.BaseModelRow, tables.CalibrationRow, tables.FusedRow)
    for table in (*models, tables.AdapterRow, tables.AdapterRenderingRow):
        others = sa.select(table.digest).join(manifest, table.manifest_id == manifest.id)
        if (digest := session.scalar(others.where(table.digest != manifest.digest).limit(1))) is not None:
            name = f"rows/{table.__tablename__}.ndjson"
            raise backup.refuse(name, f"has a record whose digest {digest[:12]} is not that of its manifest")


Row = dict[str, Any]

LEASE = "backup"  # the lease against two backups of one registry at once; backups do not include it

_TYPES: Mapping[str, Callable[[], sa.types.TypeEngine[Any]]] = {
    "moment": UtcDateTime,
    "boolean": sa.Boolean,
    "integer": sa.BigInteger,
    "number": sa.Double,
    "date": sa.Date,
    "document": lambda: DOCUMENT,
    "text": sa.String,
}


def all_tables() -> list[sa.Table]:
    """Return the tables of the schema, each after those that it references."""
    return list(tables.metadata.sorted_tables)


def table_rows(session: Session, source: sa.Table) -> Iterator[Row]:
    """Yield the rows of a table by primary key: no intents, leases as released, blobs without references as absent."""
    if source.name == tables.IntentRow.__tablename__:
        return
    kinds = {column.name: kind_of(column) for column in source.columns}
    # By default, PostgreSQL orders strings by the server's locale.
    plain, key = session.get_bind().dialect.name == "postgresql", source.primary_key.columns
    order = [collate(one, "C") if plain and isinstance(one.type, sa.String) else one for one in key]
    query = sa.select(source).order_by(*order).execution_options(yield_per=_BATCH)
    stored = session.execute(query).mappings()
    rows = ({name: to_json(kind, row[name]) for name, kind in kinds.items()} for row in stored)
    if source.name == tables.LeaseRow.__tablename__:
        yield from ({**row, "owner": "", "expires": 0.0} for row in rows if row["key"] != LEASE)
    elif source.name == tables.BlobRow.__tablename__:
        blob = tables.ManifestFileRow.blob
        referenced = set(session.scalars(sa.select(blob).where(blob.is_not(None)).distinct()))
        for row in rows:
            state = row["state"] if row["digest"] in referenced else "absent"
            yield {**row, "state": state, "tomb_expires": None}
    else:
        yield from rows


def needed_blobs(session: Session) -> Iterator[Blob]:
    """Yield the blobs that files of manifests refer to."""
    file, blob = tables.ManifestFileRow, tables.BlobRow
    is_needed = sa.exists().where(file.blob == blob.digest)
    query = sa.select(blob.digest, blob.size, blob.generation).where(is_needed)
    for row in session.execute(query.order_by(blob.digest).execution_options(yield_per=_BATCH)):
        yield Blob(Digest(row.digest), row.size, row.generation)


def read_rows(backup: Container, member: Member) -> Iterator[Row]:
    """Yield the rows of a table for an insert."""
    for number, document in backup.lines(member):
        if document.keys() != member.columns.keys():
            raise backup.broken(member, f"has wrong columns in line {number}")
        try:
            yield {name: from_json(kind, document[name]) for name, kind in member.columns.items()}
        except ValueError as error:
            raise backup.broken(member, f"has an invalid value in line {number}") from error


def read_blobs(backup: Container) -> Iterator[tuple[Blob, bool]]:
    """Yield the blobs with their generations, and whether the backup has their bytes."""
    name = f"rows/{tables.BlobRow.__tablename__}.ndjson"
    member = next((member for member in backup.contents.members if member.name == name), None)
    if member is None:
        raise backup.refuse(name, "is missing")
    count = size = 0
    for row in read_rows(backup, member):
        try:
            blob, stored = Blob(parse_digest(row["digest"]), row["size"], row["generation"]), row["state"]
        except (ValueError, LookupError) as error:
            raise backup.refuse(name, "has an invalid blob") from error
        if stored != "absent":
            count, size = count + 1, size + blob.size
        yield blob, stored != "absent"
    if Amount(count, size) != backup.contents.blobs:
        raise backup.refuse(name, "has another number of blobs or bytes than package.json")
