"""Make a backup: a snapshot of the rows, then their blobs, and last `package.json`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.errors import BlobCorruptError, BlobMissingError, StoreUnavailableError
from fusery.storage.failures import os_failures
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import display_url
from fusery.storage.processes import temporary_folder
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.transfer import in_order, require_room, transfer

from .. import tables
from ..database import Database, leases
from ..database.engine import batches
from ..database.leases import Intents
from ..database.schema import HEAD
from ..errors import BadInputError, DatabaseUnavailableError
from ..parsing import plural
from ..record import Record, described
from ..remote.container import Amount, BackupError, Contents, Position, store_members, write_member
from ..remote.reading import all_documents
from ..tables.record import kind_of
from ..wire import encode
from .filling import LEASE, all_tables, needed_blobs, table_rows
from .restore import JOBS, require_restorable
from .stored import open_place

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

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
    """Back up the database and all blobs, or update an earlier backup.

    The rows are a consistent snapshot, even if others write meanwhile.  `gc` keeps their blobs until they are
    copied.  An interrupted backup leaves the previous one unchanged; the next one removes its part files and copies
    only the missing blobs.  `verify` replaces damaged blobs, and proves that the rows can be restored.
    """
    place = open_place(workspace, destination, store_options)

    def report_busy(busy: leases.Busy) -> None:
        holder = busy.owner.description if busy.owner else "another process"
        reporter.say(f"being backed up by {holder}, waiting")

    lease = leases.wait(workspace.database, LEASE, workspace.owner(), on_busy=report_busy)
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
