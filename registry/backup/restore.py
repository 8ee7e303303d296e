"""Restore a backup into an empty registry: one's own row by row, a stranger's as `pull` copies from another registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter
from fusery.storage.temporary import temporary_folder

from ..database.schema import HEAD
from ..errors import SchemaError
from .foreign import copy_from
from .own import Restored, restore_own
from .places import open_place
from .reading import Backup

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
    """Restore a backup into an empty registry, on whatever database and store.

    The user's own backup is restored as it is: rows, ids, seals and the log, in one transaction, after its files, blobs,
    manifests and the chain of its log were verified.  After an interruption the registry is still empty, and the same
    command goes on.

    Any other backup is copied from, as `pull` copies from another registry; see `foreign.copy_from`.

    Args:
        workspace: the parts of the registry to be.
        source: where the backup is.
        own: it is the user's own.
        store_options: for the file system there, as JSON; see `places.open_place`.
        reporter: hears what is going on, and the bytes of blobs done and the total.

    Raises:
        BackupError: there is no backup, or it is damaged or was changed.
        NotEmptyError: there is something in this registry.
        SchemaError: the backup is of a newer version of fusery.
        OutOfSpaceError: there is too little room.
    """
    with temporary_folder("restore") as folder:
        backup = Backup(open_place(workspace, source, store_options), folder, own=own)
        if backup.catalogue.schema > HEAD:
            raise SchemaError(
                f"the backup is at {backup.catalogue.schema}, this program knows up to {HEAD}",
                hint="upgrade fusery: pip install --upgrade fusery",
            )
        if own:
            return restore_own(workspace, backup, reporter)
        return copy_from(workspace, backup, folder, reporter)
