"""Published fused models: their files as blobs in the shared store, for other machines to fetch.

A fused artifact is published when every file of its manifest has a blob.  The blobs are referred to by its record, so
the collector leaves them alone; fetched files are verified against the record before they become visible.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, StorageError
from fusery.storage.manifest import Manifest
from fusery.storage.progress import tally
from fusery.storage.room import Need, require_rooms

from .. import tables
from ..database import events
from ..errors import BadInputError
from ..records.bases import blob_generations

if TYPE_CHECKING:
    from ..records.deposit import Deposit
    from ..workspace import Workspace

Publish = Literal["full", "recipe"]
PUBLISH: tuple[Publish, ...] = ("full", "recipe")
"""What of a fused model goes to the store: its files, or its record alone, by which anybody can make it again."""


def checked_publish(wanted: str) -> str:
    """Return one of `PUBLISH`.

    Raises:
        BadInputError: it is something else.
    """
    if wanted not in PUBLISH:
        raise BadInputError(
            f"there is no way to publish {wanted[:40]!r}", hint=f"--publish {'|'.join(PUBLISH)}"
        )
    return wanted


def is_published(row: tables.Fused) -> bool:
    """Tell whether the files of a fused artifact are in the store."""
    files = row.manifest.files
    return bool(files) and all(file.blob is not None for file in files)


def deposit_files(
    workspace: Workspace, manifest: Manifest, folder: Path, progress: Callable[[int, int], None] | None
) -> Deposit:
    """Store the files of a fused model; they count once a transaction commits the deposit.

    Raises:
        StorageError: the store did not take them, or a file is not what the manifest says.
    """
    from ..records.deposit import Deposit

    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    files = {entry.path: folder / entry.path for entry in manifest}
    deposit.put(files, manifest=manifest, progress=tally(progress, manifest.size))
    return deposit


def record_published(workspace: Workspace, session: Session, key: str, manifest: Manifest) -> None:
    """Log that the files of a fused artifact are now in the store."""
    session.expire_all()  # the manifest's rows were read before the deposit set their blobs
    events.record(
        session,
        action="fused.published",
        kind="fused",
        subject=key,
        detail={"digest": manifest.digest, "bytes": manifest.size},
        actor=workspace.actor,
    )


def fetch_published(
    workspace: Workspace,
    manifest: Manifest,
    folder: Path,
    *,
    check: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the files of a published model into an empty folder, each verified; a damaged blob is put aside.

    Args:
        workspace: the registry's parts.
        manifest: of the model, as recorded.
        folder: where to.
        check: called repeatedly; raises to stop the work.
        progress: called with the bytes done and the total.

    Raises:
        BlobMissingError, BlobCorruptError: the store does not have what is recorded.
        StoreUnavailableError: it did not answer.
        OutOfSpaceError: there is no room for the files.
    """
    told = tally(progress, manifest.size)
    workspace.cache.sweep()  # what a killed fetch left may be as large as what is coming
    held = workspace.cache.in_use_here()
    need = Need(folder.parent, [held, *(entry.size for entry in manifest)], taken=held)
    require_rooms([need, *workspace.notes], hint="fusery cache prune")

    def arrived(number: int) -> None:
        check()
        if told:
            told(number)

    generations = blob_generations(workspace, [entry.sha256 for entry in manifest])
    for entry in manifest:
        target, generation = folder / entry.path, generations[entry.sha256]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            workspace.store.fetch(entry.sha256, target, generation=generation, progress=arrived)
        except BlobCorruptError:
            _put_aside(workspace, entry.sha256, generation)
            raise


def _put_aside(workspace: Workspace, digest: Digest, generation: int) -> None:
    # Only so that good bytes can take its place; who may not write to the store goes on without.
    with suppress(StorageError):
        workspace.store.quarantine(digest, generation=generation)
