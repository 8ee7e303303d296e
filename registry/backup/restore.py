"""Restore a backup into an empty registry: your own row by row, another party's as `pull` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.hands import in_order
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.layout import blob_name
from fusery.storage.locate import display_url, open_store
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.room import Need, needs_of, require_rooms
from fusery.storage.temporary import temporary_folder

from ..database import Database
from ..database.schema import HEAD
from ..errors import SchemaError
from ..parsing import plural
from .catalogue import Catalogue
from .errors import BackupError, NotEmptyError
from .filling import database_size, fill, fill_temporary
from .foreign import copy_from
from .places import JOBS, carry, open_place
from .reading import Backup
from .target import Restored, make_ready, missing_sizes, require_empty

if TYPE_CHECKING:
    from ..workspace import Workspace


def restore(
    workspace: Workspace,
    source: str,
    *,
    own: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> Restored:
    """Restore a backup into an empty registry on any database and store.

    The user's own backup is restored unchanged, with ids, seals and the log.  Files, blobs, manifests and the
    chain of the log are verified first.  The rows are written in one transaction: after an interruption the
    registry is still empty, and the same command resumes.

    Another party's backup is copied from as by `pull`; see `foreign.copy_from`.

    Args:
        workspace: the workspace of the new registry.
        source: the folder or URL of the backup.
        own: whether it is the user's own.
        store_options: options of its file system as JSON; see `places.open_place`.
        reporter: receives messages, and the bytes of blobs done and the total.

    Raises:
        BackupError: the backup is missing, damaged or edited.
        NotEmptyError: the registry is not empty.
        SchemaError: a newer version of fusery made the backup.
        OutOfSpaceError: there is not enough disk space.
    """
    with temporary_folder("restore") as folder:
        backup = Backup(open_place(workspace, source, store_options), folder, own=own)
        if backup.catalogue.schema > HEAD:
            raise SchemaError(
                f"the backup has schema {backup.catalogue.schema}; this fusery supports up to {HEAD}",
                hint="upgrade fusery: pip install --upgrade fusery",
            )
        if own:
            return _restore_own(workspace, backup, reporter)

        return copy_from(workspace, backup, folder, reporter)


def require_restorable(
    place: BlobStore, catalogue: Catalogue, *, actor: str, say: Callable[[str], None]
) -> None:
    """Restore the rows of a new backup into a temporary database, to prove that a restore works.

    Args:
        place: the store of the backup.
        catalogue: the backup's catalogue, published or not.
        actor: who makes the backup.
        say: called with each progress message.

    Raises:
        BackupError: a restore would refuse the backup.
        OutOfSpaceError: there is not enough disk space for the temporary database.
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


def _restore_own(workspace: Workspace, backup: Backup, reporter: Reporter) -> Restored:
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
    return Restored(backup.where, catalogue.made_at, rows, catalogue.blobs, catalogue.last_event, own=True)


def _take_over(store: BlobStore, present: str | None, wanted: str) -> str:
    """Give a new store the id of the backup's store, or keep the id of an empty one; return the id."""
    known = store.identify()
    if known is None and present is None:
        store.initialise(wanted)
        return wanted
    if known is None or (
        known != wanted and (known != present or next(iter(store.blobs()), None) is not None)
    ):
        raise NotEmptyError(
            f"the store is not empty, or belongs to another database: {display_url(store.url)}",
            hint="restore into an empty registry: set another FUSERY_REGISTRY, or other URLs",
        )
    return known


def _in_generations(backup: Backup, store: BlobStore) -> tuple[dict[Digest, int], list[Blob]]:
    """Return the generation of every blob in the store, and the backup's blobs with their generations.

    In a new store, it is the recorded generation.  In the existing store, whose database was lost, it is the
    newest one in the store.  A blob that the backup does not have gets the next generation, so that a pending
    deletion cannot remove it.
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
