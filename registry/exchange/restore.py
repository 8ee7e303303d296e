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
from . import filling
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
) -> filling.Restored:
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
        needs = [backup.need(rows), *needs_of(store, filling.missing_sizes(store, blobs))]
        if database.path is not None:
            needs.append(Need(database.path, [filling.database_size(rows)]))
        require_rooms(needs, hint="free some space")
        reporter.say(f"copying {plural(len(blobs), 'blob')}")
        _copy(backup, store, blobs, reporter.progress)
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
