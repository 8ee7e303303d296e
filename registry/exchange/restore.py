"""Restore one's own backup into an empty registry, row by row; another party's is pulled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.layout import blob_name
from fusery.storage.locate import display_url, open_store
from fusery.storage.processes import temporary_folder
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.transfer import Need, in_order, needs_of, require_rooms, transfer

from ..database import Database
from ..database.schema import HEAD
from ..errors import BadInputError, SchemaError
from ..parsing import plural
from ..remote.container import BackupError, Container, Contents
from .filling import (
    NotEmptyError,
    Restored,
    database_size,
    fill,
    make_ready,
    missing_sizes,
    read_blobs,
    require_empty,
    restored_store,
)
from .stored import open_place

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

JOBS = 4
"""The number of concurrent copies."""


def restore(
    workspace: Workspace,
    source: str,
    *,
    own: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> Restored:
    """Restore the user's `own` backup into an empty registry on any database and store.

    Members, blobs, manifests and the chain of the log are verified first; names, ids, seals and the log stay the same.
    The rows are written in one transaction: after an interruption the registry is still empty, or has exactly these
    rows, and the same command resumes.
    """
    settings = workspace.settings
    with temporary_folder("restore") as folder, closing(Database.open(settings.database)) as database:
        backup = Container(open_place(workspace, source, store_options), folder, own=True)
        contents, rows = backup.contents, backup.contents.within("rows")
        if not own:
            raise BadInputError(
                "a backup is restored as it is, with all keys, tokens and aliases in it",
                hint=f"give --own if it is yours; else fusery pull '*' --from {backup.where}",
            )
        if contents.schema > HEAD:
            raise SchemaError(
                f"the backup has schema {contents.schema}; this fusery supports up to {HEAD}",
                hint="upgrade fusery: pip install --upgrade fusery",
            )
        restored = restored_store(database, contents)
        present = restored or require_empty(database)
        reporter.say("reading the backup")
        backup.fetch(rows)
        store = open_store(settings.store, options=settings.store_options)
        store_id = _take_over(
            store, present, contents.registry, {blob.digest for blob, _ in read_blobs(backup)}
        )
        generations, blobs = _in_generations(backup, store)
        needs = [backup.need(rows), *needs_of(store, missing_sizes(store, blobs))]
        if database.path is not None:
            needs.append(Need(database.path, [database_size(rows)]))
        require_rooms(needs, hint="free some space")
        reporter.say(f"copying {plural(len(blobs), 'blob')}")
        _copy(backup, store, blobs, reporter.progress)
        if restored is None:
            reporter.say("writing the database")
            database.make_folder()
            with database.schema_change() as connection:
                fill(connection, backup, store_id=store_id, generations=generations)
    make_ready(workspace)
    counts = {member.stem: member.lines for member in rows}
    return Restored(backup.where, contents.made_at, counts, contents.blobs, contents.last_event)


def require_restorable(place: BlobStore, contents: Contents, folder: Path) -> None:
    """Restore the rows of a new backup into a temporary database in a folder; its blobs have been verified."""
    backup, rows = Container(place, folder, own=True, contents=contents), contents.within("rows")
    try:
        backup.fetch(rows)
        require_rooms([backup.need(rows, database_size(rows))])
        url = f"sqlite:///{folder / 'rows.db'}"
        with closing(Database.open(url)) as database, database.schema_change() as connection:
            fill(connection, backup, store_id=contents.registry, generations={})
    except BackupError as error:
        raise BackupError(
            f"the new backup cannot be restored: {error.message}",
            hint="fusery audit; the previous backup is kept",
        ) from error


def _take_over(store: BlobStore, present: str | None, wanted: str, digests: Collection[Digest]) -> str:
    """Return the store's id; a store without one gets that of the backup's registry."""
    store_id = store.identify()
    if store_id is None and present is None:
        store.initialise(wanted)
        return wanted
    if store_id is None or (
        store_id != wanted
        and (store_id != present or any(blob.digest not in digests for blob in store.blobs()))
    ):
        raise NotEmptyError(
            f"the store {display_url(store.url)} is not empty, or belongs to another registry",
            hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
        )
    return store_id


def _in_generations(backup: Container, store: BlobStore) -> tuple[dict[Digest, int], list[Blob]]:
    """Return the generation of every blob in the store, and the blobs that the backup has in theirs."""
    store_generations: dict[Digest, int] = {}
    for blob in store.blobs():
        store_generations[blob.digest] = max(blob.generation, store_generations.get(blob.digest, 0))
    generations, blobs = dict[Digest, int](), list[Blob]()
    for blob, stored in read_blobs(backup):
        newest = max(blob.generation, store_generations.get(blob.digest, 0))
        generations[blob.digest] = newest + (1 if store_generations and not stored else 0)
        if stored:
            blobs.append(replace(blob, generation=newest))
    return generations, blobs


def _copy(
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
