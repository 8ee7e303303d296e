"""Restore a backup into an empty registry: your own row by row, another party's as `pull` does."""

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
            return restore_own(workspace, backup, reporter)
        return copy_from(workspace, backup, folder, reporter)
