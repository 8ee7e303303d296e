"""Make a backup: a snapshot of the rows, then their blobs, and last `backup.json`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.digest import Digest, canonical_json
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StoreUnavailableError
from fusery.storage.failures import os_failures
from fusery.storage.hands import in_order
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import display_url
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.room import require_room
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..database import Database, leases
from ..database.intents import Intents
from ..database.schema import HEAD
from ..errors import BadInputError, DatabaseUnavailableError
from ..parsing import plural
from ..record import Record, described
from ..tables.values import kind_of
from .catalogue import BLOBS, Amount, Catalogue, File, Position
from .errors import BackupError
from .own import require_restorable
from .places import JOBS, carry, open_place
from .rows import LEASE, all_tables, needed_blobs, table_rows

if TYPE_CHECKING:
    from ..workspace import Workspace

_ATTEMPTS = 5
_BATCH = 500


@dataclass(frozen=True, slots=True)
class BackedUp(Record):
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
    copied.  An interrupted backup leaves the previous one unchanged; the next one copies only the missing
    blobs.

    Args:
        workspace: the registry's workspace.
        destination: a folder, or a URL like that of a store.
        verify: whether to verify the blobs in the backup, replace damaged ones, and restore the rows into a
            temporary database to prove that a restore works.
        store_options: options of its file system as JSON; see `places.open_place`.
        reporter: receives messages, and the bytes of blobs done and the total.

    Raises:
        BadInputError: the destination has files and is not a backup.
        StoreMismatchError: the destination has something else, such as the backup of another registry.
        BackupError: a restore would refuse the backup; the previous backup is kept.
        BlobMissingError, BlobCorruptError: a blob of the registry is missing or damaged.
        StoreUnavailableError: a store failed.
    """
    place = open_place(workspace, destination, store_options)
    lease = leases.wait(
        workspace.database,
        LEASE,
        workspace.owner(),
        told=lambda busy: reporter.say(
            f"being backed up by {busy.owner.description if busy.owner else 'another process'}, waiting"
        ),
    )
    with lease.keep(), temporary_folder("backup") as folder:
        store_id = workspace.store.identify()
        _require_backup_or_empty(place)
        place.initialise(f"backup.{store_id}")
        former = _former(place, reporter.say)
        there = {blob.digest: blob.size for blob in place.blobs()}
        with _protected(workspace, str(store_id), folder, there, verify, reporter.say) as snapshot:
            made, blobs, missing = snapshot
            coming = [blob.size for blob in missing if there.get(blob.digest) != blob.size]
            require_room(place, [*coming, *(file.size for file in made.files)])
            reporter.say(f"copying {len(missing)} of {plural(made.blobs.count, 'blob')}")
            copied = _copy(workspace.store, place, missing, reporter.progress)
            for file in made.files:
                place.put_file(folder / file.name, expected=FileEntry(file.name, file.size, file.sha256))
            if verify:
                require_restorable(place, made, actor=workspace.actor, say=reporter.say)
        lease.check()
        made.write(place)
        # Keep blobs of earlier backups.  A file of rows can have the same digest as a blob.
        needed = {file.sha256 for file in made.files} | {blob.digest for blob in blobs}
        for file in former.files if former is not None else ():
            if file.sha256 not in needed:
                lease.check()
                place.delete(file.sha256)
        with workspace.database.write() as session:
            lease.release(session)
    return BackedUp(
        path=display_url(place.url),
        schema=made.schema,
        made_at=datetime.fromisoformat(made.made_at),
        last_event=made.last_event,
        rows={file.table: file.rows for file in made.tables},
        blobs=made.blobs,
        copied=copied,
    )


def _require_backup_or_empty(place: BlobStore) -> None:
    """Raise an error if the destination has files and is not a backup.

    Raises:
        BadInputError: the destination has other files.
    """
    if place.identify() is None and (name := next(place.strays(), None)) is not None:
        raise BadInputError(
            f"the destination is not empty and not a backup: {display_url(place.url)} (it has {name})",
            hint="give an empty folder or a new one, such as fusery backup NEW_FOLDER",
        )


def _former(place: BlobStore, say: Callable[[str], None]) -> Catalogue | None:
    try:
        return Catalogue.read(place)
    except BackupError as error:
        say(f"{error.message}; it is replaced")
        return None


@contextlib.contextmanager
def _protected(
    workspace: Workspace,
    store: str,
    folder: Path,
    there: Mapping[Digest, int],
    verify: bool,
    say: Callable[[str], None],
) -> Iterator[tuple[Catalogue, Sequence[Blob], Sequence[Blob]]]:
    """Yield a snapshot, its blobs, and the blobs to copy, which `gc` keeps within the block.

    Raises:
        StoreUnavailableError: `gc` removed blobs in every attempt.
    """
    database = workspace.database
    intents = Intents(database, workspace.owner())
    try:
        for _ in range(_ATTEMPTS):
            say("reading the database")
            made, blobs = _take_snapshot(workspace, store, folder)
            missing = [blob for blob in blobs if verify or there.get(blob.digest) != blob.size]
            if _claim(database, intents, missing):
                with intents.kept():
                    yield made, blobs, missing
                return
        raise StoreUnavailableError(
            "cannot claim the blobs: gc removes them at the same time", hint="run the command again"
        )
    finally:
        with contextlib.suppress(DatabaseUnavailableError), database.write() as session:
            intents.drop(session)


def _claim(database: Database, intents: Intents, blobs: Sequence[Blob]) -> bool:
    """Claim blobs; return whether all still have the generation in the snapshot."""
    for start in range(0, len(blobs), _BATCH):
        batch = blobs[start : start + _BATCH]
        digests = [blob.digest for blob in batch]
        with database.write() as session:
            intents.claim(session, digests)
            rows = session.execute(
                select(tables.Blob.digest, tables.Blob.generation).where(
                    tables.Blob.digest.in_(digests), tables.Blob.state.in_(("ready", "pending"))
                )
            )
            now = {row.digest: row.generation for row in rows}
        if any(now.get(blob.digest) != blob.generation for blob in batch):
            return False
    return True


def _take_snapshot(workspace: Workspace, store: str, folder: Path) -> tuple[Catalogue, list[Blob]]:
    """Write a snapshot of all tables to files; return the catalogue and the blobs."""
    files = list[File]()
    with workspace.database.read() as session, os_failures("write the rows of a backup", near=folder):
        for table in all_tables():
            columns = {column.name: kind_of(column) for column in table.columns}
            files.append(_write_lines(folder / f"{table.name}.ndjson", table_rows(session, table), columns))
        blobs = list(needed_blobs(session))
        lines = ({"digest": blob.digest, "size": blob.size} for blob in blobs)
        files.append(_write_lines(folder / BLOBS, lines, {}))
        made = Catalogue(
            store=store,
            schema=HEAD,
            made_at=Database.utcnow(session).isoformat(timespec="seconds"),
            made_by=workspace.actor,
            tool=f"fusery {version('fusery')}",
            last_event=Position.newest(session),
            blobs=Amount(len(blobs), sum(blob.size for blob in blobs)),
            files=tuple(files),
        )
    return made, blobs


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> File:
    running, size, count = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        for row in rows:
            line = canonical_json(row) + b"\n"
            file.write(line)
            running.update(line)
            size, count = size + len(line), count + 1
    return File(path.name, count, size, Digest(running.hexdigest()), columns)


def _copy(
    store: BlobStore, place: BlobStore, missing: Sequence[Blob], progress: Callable[[int, int], None]
) -> Amount:
    """Copy the missing blobs; return their number and size."""
    told = tally(progress, sum(blob.size for blob in missing))

    def copy(blob: Blob) -> int | None:
        try:
            place.verify(blob.digest, blob.size, progress=told)
        except BlobMissingError:
            pass
        except BlobCorruptError:
            place.quarantine(blob.digest)
        else:
            return None
        try:
            carry(store, blob, place, 0, told)
        except BlobCorruptError as error:
            raise BlobCorruptError(
                f"blob {blob.digest} in {display_url(store.url)} is damaged", hint="fusery audit --repair"
            ) from error
        return blob.size

    copied = [size for size in in_order(copy, missing, JOBS) if size is not None]
    return Amount(len(copied), sum(copied))
