"""Make a backup (the rows, their blobs, and last `package.json`), and restore one's own into an empty registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StoreUnavailableError
from fusery.storage.failures import os_failures
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.layout import blob_name
from fusery.storage.locate import display_url, open_store
from fusery.storage.processes import temporary_folder
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.transfer import Need, in_order, needs_of, require_room, require_rooms, transfer

from .. import tables
from ..database import Database, leases
from ..database.engine import batches
from ..database.leases import Intents
from ..database.schema import HEAD
from ..errors import BadInputError, DatabaseUnavailableError, SchemaError
from ..parsing import plural
from ..record import Record, described
from ..remote.container import Amount, BackupError, Container, Contents, Position, store_members, write_member
from ..remote.reading import all_documents
from ..tables.record import kind_of
from ..wire import encode
from ..workspace.workspace import Workspace
from . import filling
from .filling import LEASE, all_tables, needed_blobs, table_rows
from .stored import open_place

JOBS = 4  # number of concurrent copies


def restore(
    workspace: Workspace,
    source: str,
    *,
    own: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> filling.Restored:
    """Restore the user's `own` backup into an empty registry: verify everything, then write all rows in one transaction."""
    settings = workspace.settings
    with temporary_folder("restore") as folder, closing(Database.open(settings.database)) as database:
        backup = Container(open_place(workspace, source, store_options), folder, own=True)
        contents, rows = backup.contents, backup.contents.within("rows")
        if not own:
            problem = "a backup is restored as it is, with all keys, tokens and aliases in it"
            hint = f"give --own if it is yours; else fusery pull '*' --from {backup.where}"
            raise BadInputError(problem, hint=hint)
        if contents.schema > HEAD:
            problem = f"the backup has schema {contents.schema}; this fusery supports up to {HEAD}"
            raise SchemaError(problem, hint="upgrade fusery: pip install --upgrade fusery")
        restored = filling.restored_store(database, contents)
        present = restored or filling.require_empty(database)
        reporter.say("reading the backup")
        backup.fetch(rows)
        store = open_store(settings.store, options=settings.store_options)
        digests = {blob.digest for blob, _ in filling.read_blobs(backup)}
        store_id = _take_over(store, present, contents.registry, digests)
        generations, blobs = _in_generations(backup, store)
        local = blobs if store.is_local else []
        missing = [one.size for one in local if store.size(one.digest, generation=one.generation) is None]
        needs = [backup.need(rows), *needs_of(store, missing)]
        if database.path is not None:
            needs.append(Need(database.path, [filling.database_size(rows)]))
        require_rooms(needs, hint="free some space")
        reporter.say(f"copying {plural(len(blobs), 'blob')}")
        _copy_back(backup, store, blobs, reporter.progress)
        if restored is None:
            reporter.say("writing the database")
            database.make_folder()
            with database.schema_change() as connection:
                filling.fill(connection, backup, store_id=store_id, generations=generations)
    filling.make_ready(workspace)
    counts = {member.stem: member.lines for member in rows}
    return filling.Restored(backup.where, contents.made_at, counts, contents.blobs, contents.last_event)


def require_restorable(place: BlobStore, contents: Contents, folder: Path) -> None:
    """Restore the rows of a new backup into a temporary database in a folder; its blobs have been verified."""
    backup, rows = Container(place, folder, own=True, contents=contents), contents.within("rows")
    try:
        backup.fetch(rows)
        require_rooms([backup.need(rows, filling.database_size(rows))])
        url = f"sqlite:///{folder / 'rows.db'}"
        with closing(Database.open(url)) as database, database.schema_change() as connection:
            filling.fill(connection, backup, store_id=contents.registry, generations={})
    except BackupError as error:
        problem = f"the new backup cannot be restored: {error.message}"
        raise BackupError(problem, hint="fusery audit; the previous backup is kept") from error


def _take_over(store: BlobStore, present: str | None, wanted: str, digests: Collection[Digest]) -> str:
    """Return the store's id; a store without one gets that of the backup's registry."""
    store_id = store.identify()
    if store_id is None and present is None:
        store.initialise(wanted)
        return wanted
    is_foreign = store_id != present or any(blob.digest not in digests for blob in store.blobs())
    if store_id is None or (store_id != wanted and is_foreign):
        problem = f"the store {display_url(store.url)} is not empty, or belongs to another registry"
        raise filling.NotEmptyError(problem, hint=filling.HINT)
    return store_id


def _in_generations(backup: Container, store: BlobStore) -> tuple[dict[Digest, int], list[Blob]]:
    """Return the generation of every blob in the store, and the blobs that the backup has in theirs."""
    store_generations: dict[Digest, int] = {}
    for blob in store.blobs():
        store_generations[blob.digest] = max(blob.generation, store_generations.get(blob.digest, 0))
    generations, blobs = dict[Digest, int](), list[Blob]()
    for blob, stored in filling.read_blobs(backup):
        newest = max(blob.generation, store_generations.get(blob.digest, 0))
        generations[blob.digest] = newest + (1 if store_generations and not stored else 0)
        if stored:
            blobs.append(replace(blob, generation=newest))
    return generations, blobs


def _copy_back(
    backup: Container, store: BlobStore, blobs: Sequence[Blob], progress: Callable[[int, int], None]
) -> None:
    done = tally(progress, sum(blob.size for blob in blobs))

    def copy(blob: Blob) -> None:
        try:
            source = replace(blob, generation=0)
            transfer(backup.place, store, source, generation=blob.generation, progress=done)
        except (BlobMissingError, BlobCorruptError) as error:
            problem = "is missing" if isinstance(error, BlobMissingError) else "is damaged"
            raise backup.refuse(blob_name(blob.digest), problem) from error

    for _ in in_order(copy, blobs, JOBS):
        pass


_ATTEMPTS = 5


class BackedUp(Record, kw_only=False):
    """A backup that was made."""

    path: str = described("where it is, without any secret")
    schema: str = described("revision of the database")
    made_at: datetime = described("the moment that it is of")
    last_event: Position = described("the newest entry of the log")
    rows: Mapping[str, int] = described("how many rows each table has")
    blobs: Amount = described("how many blobs there are, and their bytes")
    copied: Amount = described("blobs that were not there yet, and their bytes")


def backup(
    workspace: Workspace,
    destination: str,
    *,
    verify: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> BackedUp:
    """Back up the database and all blobs, or update an earlier backup, which stays as it is until the end.

    The rows are a consistent snapshot, and `gc` keeps their blobs until they are copied.  `verify` replaces damaged blobs, and
    proves that the rows can be restored.
    """
    place = open_place(workspace, destination, store_options)
    lease = leases.wait(
        workspace.database,
        LEASE,
        workspace.owner(),
        on_busy=lambda busy: reporter.say(f"being backed up by {busy}, waiting"),
    )
    with lease.keep(), temporary_folder("backup") as folder:
        store_id = workspace.store.identify()
        if place.identify() is None and (name := next(place.strays(), None)) is not None:
            problem = f"the destination has {name}, and is not a backup: {display_url(place.url)}"
            raise BadInputError(problem, hint="give an empty folder or a new one")
        place.initialise(f"backup.{store_id}")
        # Only the holder of the lease writes to the backup: these are of backups that were killed.
        for left in list(place.leftovers()):
            place.remove_leftover(left.name)
        former = None
        try:
            former = Contents.read(place)
        except BackupError as error:
            reporter.say(f"{error.message}; it is replaced")
        present_sizes = {blob.digest: blob.size for blob in place.blobs()}
        intents = Intents(workspace.database, workspace.owner())
        try:
            for _ in range(_ATTEMPTS):
                reporter.say("reading the database")
                made, blobs = _take_snapshot(workspace, str(store_id), folder)
                missing = [blob for blob in blobs if verify or present_sizes.get(blob.digest) != blob.size]
                if _claim(workspace.database, intents, missing):
                    break
            else:
                problem = "cannot claim the blobs: a concurrent gc removes them"
                raise StoreUnavailableError(problem, hint="run the command again")
            with intents.kept():
                coming = [blob.size for blob in missing if present_sizes.get(blob.digest) != blob.size]
                require_room(place, [*coming, *(member.size for member in made.members)])
                reporter.say(f"copying {len(missing)} of {plural(made.blobs.count, 'blob')}")
                copied = _copy(workspace.store, place, missing, reporter.progress)
                store_members(place, folder, made)
                if verify:
                    reporter.say("restoring into a temporary database")
                    with temporary_folder("verify") as temporary:
                        require_restorable(place, made, temporary)
        finally:
            with contextlib.suppress(DatabaseUnavailableError), workspace.database.write() as session:
                intents.drop(session)
        lease.check()
        made.publish(place)
        # Keep blobs of earlier backups.  A member can have the same digest as a blob.
        needed = {member.sha256 for member in made.members} | {blob.digest for blob in blobs}
        for member in former.members if former is not None else ():
            if member.sha256 not in needed:
                lease.check()
                place.delete(member.sha256)
        with workspace.database.write() as session:
            lease.release(session)
    return BackedUp(
        path=display_url(place.url),
        schema=made.schema,
        made_at=datetime.fromisoformat(made.made_at),
        last_event=made.last_event,
        rows={member.stem: member.lines for member in made.within("rows")},
        blobs=made.blobs,
        copied=copied,
    )


def _claim(database: Database, intents: Intents, blobs: Sequence[Blob]) -> bool:
    """Claim blobs; return whether all still have the generation in the snapshot."""
    row, generations = tables.BlobRow, {blob.digest: blob.generation for blob in blobs}
    for digests in batches(generations):
        with database.write() as session:
            intents.claim(session, digests)
            ready = row.digest.in_(digests) & row.state.in_(("ready", "pending"))
            rows = session.execute(select(row.digest, row.generation).where(ready))
            now = {blob_row.digest: blob_row.generation for blob_row in rows}
        if any(now.get(digest) != generations[digest] for digest in digests):
            return False
    return True


def _take_snapshot(workspace: Workspace, store: str, folder: Path) -> tuple[Contents, list[Blob]]:
    """Write a snapshot of all records and rows to files; return the contents and the blobs."""
    with workspace.database.read() as session, os_failures("write the rows of a backup", near=folder):
        members = [
            write_member(folder, f"documents/{kind}.ndjson", map(encode, documents))
            for kind, documents in all_documents(session)
        ]
        for table in all_tables():
            kinds = {column.name: kind_of(column) for column in table.columns}
            rows = table_rows(session, table)
            members.append(write_member(folder, f"rows/{table.name}.ndjson", rows, kinds))
        blobs = list(needed_blobs(session))
        made = Contents(
            registry=store,
            made_at=Database.utcnow(session).isoformat(timespec="seconds"),
            made_by=workspace.actor,
            last_event=Position.newest(session),
            blobs=Amount(len(blobs), sum(blob.size for blob in blobs)),
            members=tuple(members),
            schema=HEAD,
        )
    return made, blobs


def _copy(
    store: BlobStore, place: BlobStore, missing: Sequence[Blob], progress: Callable[[int, int], None]
) -> Amount:
    """Copy the missing blobs; return their number and size."""
    total_progress = tally(progress, sum(blob.size for blob in missing))

    def copy(blob: Blob) -> int | None:
        try:
            place.verify(blob.digest, blob.size, progress=total_progress)
        except BlobMissingError:
            pass
        except BlobCorruptError:
            place.quarantine(blob.digest)
        else:
            return None
        try:
            transfer(store, place, blob, progress=total_progress)
        except BlobCorruptError as error:
            problem = f"blob {blob.digest} in {display_url(store.url)} is damaged"
            raise BlobCorruptError(problem, hint="fusery audit --repair") from error
        return blob.size

    copied = [size for size in in_order(copy, missing, JOBS) if size is not None]
    return Amount(len(copied), sum(copied))
