"""Open the store of a backup, and copy blobs between stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import display_url, local_path, open_store
from fusery.storage.manifest import FileEntry
from fusery.storage.temporary import temporary_folder
from fusery.storage.transfer import transfer

from ..errors import BadInputError
from ..settings.other_store import options_of, require_folders

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace import Workspace

JOBS = 4
"""The number of concurrent copies."""


def open_place(workspace: Workspace, url: str, options: str | None = None) -> BlobStore:
    """Open the store of a backup, without reading or writing.

    Args:
        workspace: the registry's workspace.
        url: the folder or URL of the backup.
        options: options of its file system as JSON; by default those of the registry's store, but only on the
            same server, since they may contain a password.

    Raises:
        BadInputError: it overlaps the registry's own store, or a link points out of it.
        StoreUrlError: the URL is invalid.
    """
    settings = workspace.settings
    if (path := local_path(url)) is not None:
        require_folders(path.expanduser().resolve())
    given = options_of(options) if options else settings.options_at(url)
    place = open_store(url, options=given)
    own = open_store(settings.store, options=settings.store_options)
    if f"{place.url}/".startswith(f"{own.url}/") or f"{own.url}/".startswith(f"{place.url}/"):
        raise BadInputError(
            f"the backup's location overlaps the store of this registry: {display_url(place.url)}",
            hint="give another location",
        )
    return place


def carry(
    source: BlobStore, blob: Blob, target: BlobStore, generation: int, progress: Progress | None
) -> None:
    """Copy a blob to another store, and verify it; call `progress` with the size of each chunk.

    Raises:
        BlobMissingError: the blob is missing.
        BlobCorruptError: the blob is damaged, and was not stored.
    """
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
