"""Restore a backup into an empty registry: your own row by row, another party's as `pull` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import (
    BlobCorruptError,
    BlobMissingError,
    FormatError,
    FuseryError,
    MissingFileError,
    UnsafePathError,
)
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.layout import blob_name
from fusery.storage.locate import display_url, open_store
from fusery.storage.manifest import FileEntry
from fusery.storage.processes import temporary_folder
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.transfer import Need, in_order, needs_of, require_rooms, transfer

from ..database import Database
from ..database.schema import HEAD
from ..errors import DatabaseUnavailableError, RegistryError, SchemaError
from ..parsing import plural
from ..remote.container import BackupError, Container, Contents
from ..remote.documents import Item
from .checks import check_documents
from .filling import (
    LeftOut,
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
from .receiving import Receiver
from .stored import StoredPackage, needed_by, open_place

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace.workspace import Workspace

JOBS = 4
"""The number of concurrent copies."""

_REFUSED = (RegistryError, FormatError, MissingFileError, UnsafePathError)

_NEVER: Mapping[str, str] = {
    **dict.fromkeys(("alias", "alias_rule", "approval", "deployment"), "set them again in this registry"),
    **dict.fromkeys(("token", "trusted_key", "webhook"), "trust is not copied between registries"),
    "bundle": "they are in folders of the other registry's users",
    "event": "this registry's log refers to them",
}
"""Tables whose rows are never copied, with the reason."""


def restore(
    workspace: Workspace,
    source: str,
    *,
    own: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> Restored:
    """Restore a backup into an empty registry on any database and store.

    The user's `own` backup is restored unchanged, with ids, seals and the log.  Members, blobs, manifests and the
    chain of the log are verified first.  The rows are written in one transaction: after an interruption the
    registry is still empty, or has exactly these rows, and the same command resumes.

    The documents of another party's backup are received as by `pull`, and its rows are never read.  Each is recorded
    when it is complete, so that the same command can resume an interrupted copy.
    """
    with temporary_folder("restore") as folder:
        place = open_place(workspace, source, store_options)
        if not own:
            return _receive(workspace, StoredPackage(place, folder), reporter)
        backup = Container(place, folder, own=True)
        if backup.contents.schema > HEAD:
            raise SchemaError(
                f"the backup has schema {backup.contents.schema}; this fusery supports up to {HEAD}",
                hint="upgrade fusery: pip install --upgrade fusery",
            )
        return _restore_own(workspace, backup, reporter)


def carry(
    source: BlobStore, blob: Blob, target: BlobStore, generation: int, progress: Progress | None
) -> None:
    """Copy a blob to another store, and verify it; call `progress` with the size of each chunk."""
    with temporary_folder("carried") as folder:
        transfer(
            source,
            target,
            FileEntry(blob.digest, blob.size, blob.digest),
            folder,
            from_generation=blob.generation,
            to_generation=generation,
            progress=progress,
        )


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


def _restore_own(workspace: Workspace, backup: Container, reporter: Reporter) -> Restored:
    contents, rows = backup.contents, backup.contents.within("rows")
    with closing(Database.open(workspace.settings.database)) as database:
        restored = restored_store(database, contents)
        present = restored or require_empty(database)
        reporter.say("reading the backup")
        backup.fetch(rows)
        store = open_store(workspace.settings.store, options=workspace.settings.store_options)
        digests = {blob.digest for blob, _ in read_blobs(backup)}
        store_id = _take_over(store, present, contents.registry, digests)
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
    return Restored(backup.where, contents.made_at, counts, contents.blobs, contents.last_event, True, ())


def _take_over(store: BlobStore, present: str | None, wanted: str, digests: Collection[Digest]) -> str:
    """Return the store's id; a store without one gets that of the backup's registry."""
    known = store.identify()
    if known is None and present is None:
        store.initialise(wanted)
        return wanted
    if known is None or (
        known != wanted and (known != present or any(blob.digest not in digests for blob in store.blobs()))
    ):
        raise NotEmptyError(
            f"the store {display_url(store.url)} is not empty, or belongs to another registry",
            hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
        )
    return known


def _in_generations(backup: Container, store: BlobStore) -> tuple[dict[Digest, int], list[Blob]]:
    """Return the generation of every blob in the store, and the blobs that the backup has in theirs."""
    there: dict[Digest, int] = {}
    for blob in store.blobs():
        there[blob.digest] = max(blob.generation, there.get(blob.digest, 0))
    generations, blobs = dict[Digest, int](), list[Blob]()
    for blob, stored in read_blobs(backup):
        newest = max(blob.generation, there.get(blob.digest, 0))
        generations[blob.digest] = newest + (1 if there and not stored else 0)
        if stored:
            blobs.append(replace(blob, generation=newest))
    return generations, blobs


def _copy(
    backup: Container, store: BlobStore, blobs: Sequence[Blob], progress: Callable[[int, int], None]
) -> None:
    done = tally(progress, sum(blob.size for blob in blobs))

    def copy(blob: Blob) -> None:
        try:
            carry(backup.place, replace(blob, generation=0), store, blob.generation, done)
        except (BlobMissingError, BlobCorruptError) as error:
            problem = "is missing" if isinstance(error, BlobMissingError) else "is damaged"
            raise backup.refuse(blob_name(blob.digest), problem) from error

    for _ in in_order(copy, blobs, JOBS):
        pass


def _receive(workspace: Workspace, package: StoredPackage, reporter: Reporter) -> Restored:
    settings, contents = workspace.settings, package.contents
    with closing(Database.open(settings.database)) as database:
        require_empty(database, package.registry)
    store = open_store(settings.store, options=settings.store_options)
    if store.identify() == package.registry:
        raise NotEmptyError(
            "the store belongs to the registry in the backup", hint="if the backup is your own, give --own"
        )
    reporter.say("reading the backup")
    left_out, copied, documents = list[LeftOut](), Counter[str](), list[Item]()
    lost = dict[str, str]()

    def leave_out(document: Item, error: FuseryError) -> None:
        needed = next((lost[digest] for digest in needed_by(document) if digest in lost), None)
        reason = error.message if needed is None else f"it needs {needed}, which was left out"
        left_out.append(LeftOut(document.kind, document.name, 1, reason))
        lost[document.digest] = document.name

    for document in package.documents:
        try:
            check_documents([document])
        except _REFUSED as error:
            leave_out(document, error)
        else:
            documents.append(document)
    files = {entry.sha256: entry for each in documents if each.kept == "store" for entry in each.files}
    sizes = missing_sizes(store, [Blob(entry.sha256, entry.size) for entry in files.values()])
    require_rooms(needs_of(store, sizes), hint="free some space")
    make_ready(workspace)
    progress = tally(reporter.progress, sum(sizes))
    carrier = package.carrier(workspace, own=False, progress=progress)
    receiver = Receiver(workspace, workspace, carrier, package.registry, reporter.say)
    for document in documents:
        try:
            for moved in receiver.take([document]):
                if moved.state == "left out":
                    left_out.append(LeftOut(moved.kind, moved.name, 1, moved.reason or ""))
                else:
                    copied[moved.kind.replace("base", "base_model")] += 1
        except DatabaseUnavailableError:
            raise
        except (BlobMissingError, BlobCorruptError) as error:
            raise BackupError(
                f"the backup in {package.where} is damaged: {error.message}",
                hint="run the command again with another backup of that registry; the copied records stay",
            ) from error
        except _REFUSED as error:
            leave_out(document, error)
    left_out += [
        LeftOut(member.stem, None, member.lines, _NEVER[member.stem])
        for member in contents.within("rows")
        if member.lines and member.stem in _NEVER
    ]
    where, made_at, newest = package.where, contents.made_at, contents.last_event
    return Restored(where, made_at, copied, contents.blobs, newest, False, tuple(left_out))
