"""Restore one's own backup into an empty registry: blobs first, then all rows in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.hands import in_order
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.layout import blob_name
from fusery.storage.locate import display_url, open_store
from fusery.storage.progress import Reporter, tally
from fusery.storage.room import Need, needs_of, require_rooms
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..database import Database
from ..database.schema import require, state
from ..parsing import plural
from ..record import Record, described
from .catalogue import Amount, Catalogue, Position
from .errors import BackupError, NotEmptyError
from .filling import database_size, entry_beyond, fill, fill_temporary
from .places import JOBS, carry
from .reading import Backup

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class LeftOut(Record):
    """Something in another party's backup that was not restored."""

    kind: str = described("`base`, `calibration`, `adapter` or `fused`, or a table whose rows never come")
    name: str | None = described("its name; None for all rows of a table")
    count: int = described("how many")
    reason: str = described("why")


@dataclass(frozen=True, slots=True)
class Restored(Record):
    """What a restore did."""

    source: str = described("where the backup is")
    made_at: str = described("when it was made, as it says itself")
    rows: Mapping[str, int] = described("how many rows each table has, or items of each kind were copied")
    blobs: Amount = described("how many blobs the backup has, and their bytes")
    last_event: Position = described("the newest entry of the log of the backup")
    own: bool = described("it is the user's own, and its rows are restored as they are")
    left_out: tuple[LeftOut, ...] = described("what another party's backup has besides")


def require_restorable(
    place: BlobStore, catalogue: Catalogue, *, actor: str, say: Callable[[str], None]
) -> None:
    """Restore a backup's rows into a temporary database; its blobs have been verified.

    Args:
        place: the store that holds the backup.
        catalogue: the backup's catalogue, which need not be published.
        actor: who makes the backup.
        say: called with each progress message.

    Raises:
        BackupError: a restore would refuse the backup.
        OutOfSpaceError: there is no room for the temporary database.
    """
    say("restoring into a temporary database")
    with temporary_folder("verify") as folder:
        backup = Backup(place, folder, own=True, catalogue=catalogue)
        try:
            backup.fetch()
            require_rooms([backup.need(database_size(catalogue))])
            fill_temporary(backup, folder, actor=actor)
        except BackupError as error:
            raise BackupError(
                f"the new backup cannot be restored: {error.message}",
                hint="fusery audit; the previous backup is kept",
            ) from error


def missing_sizes(store: BlobStore, blobs: Sequence[Blob]) -> list[int]:
    """Return the sizes of those blobs that a store on this machine does not have."""
    if not store.capabilities.local:
        return []
    return [blob.size for blob in blobs if store.size(blob.digest, generation=blob.generation) is None]


def require_empty(database: Database, copied_from: str | None = None) -> str | None:
    """Return the id of the store that an empty registry has, None where there is no registry yet.

    Args:
        database: the registry's.
        copied_from: see `entry_beyond`.

    Raises:
        NotEmptyError: it is not empty.
    """
    if state(database).status == "empty":
        return None
    require(database, may_create=False)
    with database.read() as session:
        if (action := entry_beyond(session.connection(), copied_from)) is not None:
            raise NotEmptyError(
                f"the registry in {database.shown} is not empty: its log has {action}",
                hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
            )
        row = session.get(tables.Registry, 1)
        return row.store_id if row else None


def restore_own(workspace: Workspace, backup: Backup, reporter: Reporter) -> Restored:
    """Restore the user's own backup as it is; see `restore`."""
    catalogue = backup.catalogue
    with closing(Database.open(workspace.settings.database)) as database:
        present = require_empty(database)
        reporter.say("reading the backup")
        backup.fetch()
        store = open_store(workspace.settings.store, options=workspace.settings.store_options)
        store_id = _take_over(store, present, catalogue.store)
        generations, blobs = _in_generations(backup, store)
        needs = [backup.need(), *needs_of(store, missing_sizes(store, blobs))]
        if database.path is not None:
            needs.append(Need(database.path, [database_size(catalogue)]))
        require_rooms(needs, hint="free some space")
        reporter.say(f"copying {plural(len(blobs), 'blob')}")
        _copy(backup, store, blobs, reporter.progress)
        reporter.say("writing the database")
        database.make_folder()
        with database.schema_change() as connection:
            fill(connection, backup, store_id=store_id, generations=generations, actor=workspace.actor)
    make_ready(workspace)
    rows = {file.table: file.rows for file in catalogue.tables}
    return Restored(backup.where, catalogue.made_at, rows, catalogue.blobs, catalogue.last_event, True, ())


def _take_over(store: BlobStore, present: str | None, wanted: str) -> str:
    """Make the store that of the backup's registry, or leave it that of the new and empty one; return its id."""
    known = store.identify()
    if known is None and present is None:
        store.initialise(wanted)
        return wanted
    if known is None or (
        known != wanted and (known != present or next(iter(store.blobs()), None) is not None)
    ):
        raise NotEmptyError(
            f"the store {display_url(store.url)} is not empty, or not the one of the database",
            hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
        )
    return known


def _in_generations(backup: Backup, store: BlobStore) -> tuple[dict[Digest, int], list[Blob]]:
    """Return the generation of every blob in the store, and the blobs that the backup has in theirs.

    It is the recorded one in a new store.  In the old one, whose database was lost, it is the newest that is there,
    and of a blob that the backup does not have the next: a deletion that is still under way must not hit it.
    """
    there: dict[Digest, int] = {}
    for blob in store.blobs():
        there[blob.digest] = max(blob.generation, there.get(blob.digest, 0))
    generations, blobs = dict[Digest, int](), list[Blob]()
    for blob, stored in backup.blobs():
        newest = max(blob.generation, there.get(blob.digest, 0))
        generations[blob.digest] = newest + (1 if there and not stored else 0)
        if stored:
            blobs.append(replace(blob, generation=newest))
    return generations, blobs


def _copy(
    backup: Backup, store: BlobStore, blobs: Sequence[Blob], progress: Callable[[int, int], None]
) -> None:
    told = tally(progress, sum(blob.size for blob in blobs))

    def copy(blob: Blob) -> None:
        try:
            carry(backup.place, replace(blob, generation=0), store, blob.generation, told)
        except (BlobMissingError, BlobCorruptError) as error:
            problem = "is missing" if isinstance(error, BlobMissingError) else "is damaged"
            raise backup.refuse(blob_name(blob.digest), problem) from error

    for _ in in_order(copy, blobs, JOBS):
        pass


def make_ready(workspace: Workspace) -> None:
    """Open the registry that the database and the store are now, and write its settings file."""
    from ..workspace import write_config

    workspace.close()
    workspace.ensure(explicit=True)
    write_config(workspace.settings)
