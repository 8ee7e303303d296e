"""Making a backup: the rows of one moment, then the bytes they name, and last the page that says it is complete."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StoreUnavailableError
from fusery.storage.failures import os_failures
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import display_url
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.room import require_room
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..database import Database, events, leases
from ..database.events import FIRST_PREVIOUS
from ..database.intents import Intents
from ..database.schema import HEAD
from ..errors import BadInputError, DatabaseUnavailableError
from ..parsing import plural
from ..record import Record
from ..tables.bounds import row_problem
from ..tables.values import kind_of
from .catalogue import BLOBS, Amount, Catalogue, File, Position, line_of
from .contents import LEASE, all_tables, needed_blobs, table_rows
from .errors import BackupError
from .examining import require_restorable
from .places import carry, each, open_place

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace import Workspace

_ATTEMPTS = 5
_BATCH = 500


@dataclass(frozen=True, slots=True)
class BackedUp(Record):
    """A backup that was made.

    Attributes:
        place: where it is, without any secret.
        catalogue: what it consists of.
        copied: blobs that were not there yet, and their bytes.
    """

    place: str
    catalogue: Catalogue
    copied: Amount
    KEYS: ClassVar[tuple[str, ...]] = ("path", "schema", "made_at", "last_event", "rows", "blobs", "copied")

    @property
    def path(self) -> str:
        """Where it is, without any secret."""
        return self.place

    @property
    def schema(self) -> str:
        """Revision of the database."""
        return self.catalogue.schema

    @property
    def made_at(self) -> datetime:
        """The moment that it is of."""
        return datetime.fromisoformat(self.catalogue.made_at)

    @property
    def last_event(self) -> Position:
        """The newest entry of the log."""
        return self.catalogue.last_event

    @property
    def rows(self) -> Mapping[str, int]:
        """How many rows each table has."""
        return {file.table: file.rows for file in self.catalogue.tables}

    @property
    def blobs(self) -> Amount:
        """How many blobs there are, and their bytes."""
        return self.catalogue.blobs


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The rows of one moment in files, and the blobs they name."""

    paths: Mapping[str, Path]
    files: tuple[File, ...]
    blobs: tuple[Blob, ...]
    made_at: str
    last_event: Position


def backup(
    workspace: Workspace,
    destination: str,
    *,
    verify: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> BackedUp:
    """Make a backup of the database and of all blobs, or bring an earlier one up to date.

    Others may write meanwhile: the rows are those of one moment, and the collector spares their blobs until they are
    copied.  An interrupted backup leaves the former one as it was, and the next goes on from what it had copied.

    Args:
        workspace: the registry's parts.
        destination: a folder, or the URL of a place like a store.
        verify: verify the blobs already in the backup, replace damaged ones, and prove that a restore works: restore the
            rows into a temporary database and compare them with the bytes.
        store_options: for the file system there, as JSON; see `places.open_place`.
        reporter: hears what is going on, and the bytes of blobs done and the total.

    Raises:
        BadInputError: the destination has files and is no backup.
        StoreMismatchError: there is something else at the destination, such as the backup of another registry.
        BackupError: a restore would refuse the backup; the previous backup is kept.
        BlobMissingError, BlobCorruptError: a blob of the registry is gone or damaged; the former backup still holds.
        StoreUnavailableError: one of the stores failed.
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
        with _protected(workspace, folder, there, verify, reporter.say) as (snapshot, missing):
            coming = [blob.size for blob in missing if there.get(blob.digest) != blob.size]
            require_room(place, [*coming, *(file.size for file in snapshot.files)])
            reporter.say(f"copying {len(missing)} of {plural(len(snapshot.blobs), 'blob')}")
            copied = _copy(workspace.store, place, missing, reporter.progress)
            _store_files(place, snapshot)
            made = _catalogue(workspace, str(store_id), snapshot)
            if verify:
                require_restorable(workspace, place, made, reporter.say)
        lease.check()
        made.write(place)
        _drop_former(place, former, snapshot, lease)
        with workspace.database.write() as session:
            lease.release(session)
    return BackedUp(display_url(place.url), made, copied)


def _require_backup_or_empty(place: BlobStore) -> None:
    """Refuse a destination that has files and is no backup.

    Raises:
        BadInputError: it has.
    """
    if place.identify() is None and (name := next(place.strays(), None)) is not None:
        raise BadInputError(
            f"the destination is not empty and is no backup: {display_url(place.url)} (it has {name})",
            hint="give an empty folder or a new one, such as fusery backup NEW_FOLDER",
        )


def _catalogue(workspace: Workspace, store: str, snapshot: _Snapshot) -> Catalogue:
    return Catalogue(
        store=store,
        schema=HEAD,
        made_at=snapshot.made_at,
        made_by=workspace.actor,
        tool=f"fusery {version('fusery')}",
        last_event=snapshot.last_event,
        blobs=Amount(len(snapshot.blobs), sum(blob.size for blob in snapshot.blobs)),
        files=snapshot.files,
    )


def _former(place: BlobStore, say: Callable[[str], None]) -> Catalogue | None:
    try:
        return Catalogue.read(place)
    except BackupError as error:
        say(f"{error.message}; it is replaced")
        return None


@contextlib.contextmanager
def _protected(
    workspace: Workspace, folder: Path, there: Mapping[Digest, int], verify: bool, say: Callable[[str], None]
) -> Iterator[tuple[_Snapshot, Sequence[Blob]]]:
    """Take a snapshot whose missing blobs the collector spares while the block copies them.

    Raises:
        StoreUnavailableError: the collector was faster, again and again.
    """
    database = workspace.database
    intents = Intents(database, workspace.owner())
    try:
        for _ in range(_ATTEMPTS):
            say("reading the database")
            snapshot = _take_snapshot(database, folder)
            missing = [blob for blob in snapshot.blobs if verify or there.get(blob.digest) != blob.size]
            if _claim(database, intents, missing):
                with intents.kept():
                    yield snapshot, missing
                return
        raise StoreUnavailableError(
            "blobs are collected as fast as they are claimed", hint="run the command again"
        )
    finally:
        with contextlib.suppress(DatabaseUnavailableError), database.write() as session:
            intents.drop(session)


def _claim(database: Database, intents: Intents, blobs: Sequence[Blob]) -> bool:
    """Claim blobs; return whether all of them are still what the snapshot says."""
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


def _take_snapshot(database: Database, folder: Path) -> _Snapshot:
    """Write the rows of all tables to files, as they are at one moment."""
    paths: dict[str, Path] = {}
    files: list[File] = []
    with database.read() as session, os_failures("write the rows of a backup", near=folder):
        for table in all_tables():
            name = f"{table.name}.ndjson"
            columns = {column.name: kind_of(column) for column in table.columns}
            paths[name] = folder / name
            files.append(_write_lines(paths[name], table_rows(session, table), columns))
        blobs = tuple(needed_blobs(session))
        paths[BLOBS] = folder / BLOBS
        lines = ({"digest": blob.digest, "size": blob.size} for blob in blobs)
        files.append(_write_lines(paths[BLOBS], lines, {}))
        newest = events.last(session)
        last = Position(newest.seq, newest.hash) if newest else Position(0, FIRST_PREVIOUS)
        made_at = Database.utcnow(session).isoformat(timespec="seconds")
    return _Snapshot(paths, tuple(files), blobs, made_at, last)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> File:
    running, size, count = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        for row in rows:
            line = line_of(row)
            if (problem := row_problem(line)) is not None:
                raise BackupError(
                    f"row {count + 1} of {path.stem} is too large to be restored: {problem}",
                    hint="fusery audit; the previous backup is kept",
                )
            file.write(line)
            running.update(line)
            size, count = size + len(line), count + 1
    return File(path.name, count, size, Digest(running.hexdigest()), columns)


def _copy(
    store: BlobStore,
    place: BlobStore,
    missing: Sequence[Blob],
    progress: Callable[[int, int], None],
) -> Amount:
    """Copy blobs; return how many were not there, and their bytes."""

    def copy(blob: Blob, told: Progress | None) -> bool:
        try:
            place.verify(blob.digest, blob.size, progress=told)
        except BlobMissingError:
            pass
        except BlobCorruptError:
            place.quarantine(blob.digest)
        else:
            return False
        carry(store, blob, place, 0, told)
        return True

    copied = [blob for blob, is_new in each(copy, missing, progress) if is_new]
    return Amount(len(copied), sum(blob.size for blob in copied))


def _store_files(place: BlobStore, snapshot: _Snapshot) -> None:
    for file in snapshot.files:
        place.put_file(snapshot.paths[file.name], expected=FileEntry(file.name, file.size, file.sha256))


def _drop_former(
    place: BlobStore, former: Catalogue | None, snapshot: _Snapshot, lease: leases.Lease
) -> None:
    """Remove the rows of the backup before; its blobs stay, since nobody can tell who will want them."""
    if former is None:
        return
    # Blobs, too: what the former one calls its rows is only what it says.
    needed = {file.sha256 for file in snapshot.files} | {blob.digest for blob in snapshot.blobs}
    for file in former.files:
        if file.sha256 not in needed:
            lease.check()
            place.delete(file.sha256)
