"""Restoring a backup into an empty registry: bytes first, then all rows in one transaction, which also checks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.layout import blob_name
from fusery.storage.locate import display_url, open_store
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.room import Need, needs_of, on_disk, require_rooms
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..database import Database
from ..database.schema import HEAD, require, state
from ..errors import SchemaError
from ..parsing import plural
from ..record import Record
from .catalogue import Amount, Position
from .errors import BackupError, NotEmptyError
from .examining import Doubt, adopt, database_size, examine_backup, rehearsal
from .filling import fill, first_used
from .places import carry, each, open_place
from .reading import Backup

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Restored(Record):
    """A registry that was made of a backup.

    Attributes:
        source: where the backup is.
        made_at: when it was made, as it says itself.
        rows: how many each table has.
        blobs: how many there are, and their bytes.
        last_event: the newest entry of the log of the backup.
        own: it is the user's own, and counts as it is.
        foreign: otherwise, how much does not count: of fused models, trusted keys, approvals, tokens, webhooks, and
            adapters of which admission finds more than is on record.
        doubts: those adapters, each with what was found.
    """

    source: str
    made_at: str
    rows: Mapping[str, int]
    blobs: Amount
    last_event: Position
    own: bool = False
    foreign: Mapping[str, int] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()


def restore(
    workspace: Workspace,
    source: str,
    *,
    own: bool = False,
    store_options: str | None = None,
    reporter: Reporter = SILENT,
) -> Restored:
    """Make the registry that a backup is of, with the same names, digests and log, on whatever database and store.

    Everything is verified: the files, the blobs, the lists of files, the chain of the log, and what follows from the bytes:
    what bases hold, what adapters are, which keys fused models have.  After an interruption the registry is still empty,
    and the same command goes on.

    A backup that is not the user's own is somebody's word: fused models in it are foreign, its keys are trusted for
    nothing, approvals in it are withdrawn, its tokens revoked and its webhooks disabled, and admission looks at its
    adapters.

    Args:
        workspace: the parts of the registry to be.
        source: where the backup is.
        own: it is the user's own, made by people who are trusted here.
        store_options: for the file system there, as JSON; see `places.open_place`.
        reporter: hears what is going on, and the bytes of blobs done and the total.

    Raises:
        BackupError: there is no backup, or it is damaged or was changed; nothing is on record.
        NotEmptyError: there is something in this registry.
        SchemaError: the backup is of a newer version of fusery.
    """
    database = Database.open(workspace.settings.database)
    try:
        with temporary_folder("restore") as folder:
            found = Backup(open_place(workspace, source, store_options), folder)
            if found.catalogue.schema > HEAD:
                raise SchemaError(
                    f"the backup is at {found.catalogue.schema}, this program knows up to {HEAD}",
                    hint="upgrade fusery: pip install --upgrade fusery",
                )
            present = _require_empty(database)
            reporter.say("reading the backup")
            found.fetch()
            blobs = found.blobs()
            store = open_store(workspace.settings.store, options=workspace.settings.store_options)
            store_id = _take_over(store, present, found)
            generations = _generations(found, store, blobs)
            _require_room(found, store, blobs, generations, folder, database.path)
            reporter.say(f"copying {plural(len(blobs), 'blob')}")
            _copy(
                found,
                store,
                [Blob(one, size, generations[one]) for one, size in blobs.items()],
                reporter.progress,
            )
            adopted: dict[str, int] = {}

            def write(target: Database, afterwards: Callable[[Session], None] = lambda _: None) -> None:
                with target.schema_change() as connection:
                    fill(
                        connection,
                        found,
                        store_id=store_id,
                        generations=generations,
                        stored=set(blobs),
                        actor=workspace.actor,
                        afterwards=afterwards,
                    )

            reporter.say("holding it against its bytes")
            with rehearsal(workspace, folder, write) as rehearsed:
                doubts = examine_backup(rehearsed, found, own=own, say=reporter.say)
            reporter.say("writing the database")
            database.make_folder()

            def finish(session: Session) -> None:
                if not own:
                    adopted.update(adopt(session, found, doubts, actor=workspace.actor))

            write(database, finish)
    finally:
        database.close()
    _finish(workspace)
    made = found.catalogue
    return Restored(
        found.where,
        made.made_at,
        {file.table: file.rows for file in made.tables},
        made.blobs,
        made.last_event,
        own,
        adopted,
        doubts.listed,
    )


def _require_room(
    found: Backup,
    store: BlobStore,
    blobs: Mapping[Digest, int],
    generations: Mapping[Digest, int],
    folder: Path,
    database: Path | None,
) -> None:
    """Refuse what there is no room for: blobs that are not in the store yet, and two databases, one for the rehearsal."""
    missing: list[int] = []
    if store.capabilities.local:
        missing = [
            size for one, size in blobs.items() if store.size(one, generation=generations[one]) is None
        ]
    size = database_size(found.catalogue)
    needs = [Need(folder, [size], taken=on_disk(folder))]
    if database is not None:
        needs.append(Need(database, [size]))
    require_rooms([*needs_of(store, missing), *needs], hint="free some space")


def _require_empty(database: Database) -> str | None:
    """Return the id of the store that an empty registry has, None where there is no registry yet."""
    if state(database).status == "empty":
        return None
    require(database, may_create=False)
    with database.read() as session:
        used = first_used(session.connection())
        row = session.get(tables.Registry, 1)
        store_id = row.store_id if row else None
    if used is not None:
        raise NotEmptyError(
            f"the registry in {database.path or database.display_url} is not empty: there are rows in {used}",
            hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
        )
    return store_id


def _take_over(store: BlobStore, present: str | None, found: Backup) -> str:
    """Make the store ready; return the id that it has from now on.

    It becomes the store that the backup is of, or stays that of the new and empty registry it was made for.
    """
    known = store.identify()
    if known is None:
        if present is not None:
            raise NotEmptyError(
                f"the store {display_url(store.url)} is not there, and the database is that of another",
                hint="restore into a home and a database that are not used yet",
            )
        store.initialise(found.catalogue.store)
        return found.catalogue.store
    if known != found.catalogue.store and (known != present or next(iter(store.blobs()), None) is not None):
        raise NotEmptyError(
            f"the store {display_url(store.url)} belongs to another registry, or is not empty",
            hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
        )
    return known


def _generations(found: Backup, store: BlobStore, blobs: Mapping[Digest, int]) -> dict[Digest, int]:
    """Return the generation of every blob.

    It is the recorded one in a new store.  In the old one, whose database was lost, it is the newest that is there,
    and of a blob that the backup does not have the next: a deletion that is still under way must not hit it.
    """
    there: dict[Digest, int] = {}
    for blob in store.blobs():
        there[blob.digest] = max(blob.generation, there.get(blob.digest, 0))
    generations: dict[Digest, int] = {}
    for row in found.rows(found.file(tables.Blob.__tablename__)):
        generation = max(row["generation"], there.get(row["digest"], 0))
        generations[row["digest"]] = generation + (1 if there and row["state"] == "absent" else 0)
    if not blobs.keys() <= generations.keys():
        raise found.refuse("blob.ndjson", "has no row for some of the blobs")
    return generations


def _copy(
    found: Backup,
    store: BlobStore,
    blobs: Sequence[Blob],
    progress: Callable[[int, int], None],
) -> None:
    def copy(blob: Blob, told: Progress | None) -> None:
        try:
            carry(found.place, replace(blob, generation=0), store, blob.generation, told)
        except (BlobMissingError, BlobCorruptError) as error:
            what = "is missing" if isinstance(error, BlobMissingError) else "is damaged"
            raise BackupError(
                f"the file {blob_name(blob.digest)} of the backup in {found.where} {what}",
                hint="nothing is on record; use another backup",
            ) from error

    for _ in each(copy, blobs, progress):
        pass


def _finish(workspace: Workspace) -> None:
    from ..workspace import write_config

    workspace.close()
    workspace.ensure(explicit=True)
    write_config(workspace.settings)
