"""The stores that backups are in, and copying a blob from one store to another."""

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
"""Blobs that are copied at a time."""


def open_place(workspace: Workspace, url: str, options: str | None = None) -> BlobStore:
    """Open the store that a backup is in, or is to be in; nothing is read or written.

    Args:
        workspace: the registry's parts.
        url: where the backup is.
        options: for the file system there, as JSON; without them the options of the registry's own store are used where
            the same server is asked, and nowhere else: there may be a password among them.

    Raises:
        BadInputError: it is the registry's own store, or lies in it; or a part of it leads out of it.
        StoreUrlError: it is not the URL of a store.
    """
    settings = workspace.settings
    if (path := local_path(url)) is not None:
        require_folders(path.expanduser().resolve())
    given = options_of(options) if options else settings.options_at(url)
    place = open_store(url, options=given)
    own = open_store(settings.store, options=settings.store_options)
    if f"{place.url}/".startswith(f"{own.url}/") or f"{own.url}/".startswith(f"{place.url}/"):
        raise BadInputError(
            f"{display_url(place.url)} is or holds the store of this registry, or lies in it",
            hint="give another place",
        )
    return place


def carry(
    source: BlobStore, blob: Blob, target: BlobStore, generation: int, progress: Progress | None
) -> None:
    """Copy a blob to another store, verified on the way; `progress` is called with the bytes of each piece.

    Raises:
        BlobMissingError: it is not there.
        BlobCorruptError: it is damaged; nothing was stored.
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
