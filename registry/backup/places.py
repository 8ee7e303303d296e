"""The stores that backups are in, and bytes on their way between two stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from fusery.storage.errors import BlobCorruptError, FuseryError
from fusery.storage.interface import Blob, BlobStore
from fusery.storage.locate import display_url, local_path, open_store
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import tally
from fusery.storage.temporary import temporary_folder
from fusery.storage.transfer import transfer

from ..errors import BadInputError
from ..settings.other_store import options_of, require_folders
from ..workers.executor import Threads

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..workspace import Workspace

T = TypeVar("T")

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


def each(
    work: Callable[[Blob, Progress | None], T],
    blobs: Sequence[Blob],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Blob, T]]:
    """Do something with blobs, several at a time, and yield each with its result; the first failure ends it.

    Args:
        work: what to do with a blob, telling the bytes of each piece.
        blobs: with which.
        progress: called with the bytes done and the total.
    """

    def guarded(blob: Blob) -> T | FuseryError:
        try:
            return work(blob, told)
        except FuseryError as error:
            return error

    told = tally(progress, sum(blob.size for blob in blobs))
    for outcome in Threads(JOBS).run(guarded, blobs):
        result = outcome.result
        if isinstance(result, FuseryError):
            raise result
        yield outcome.item, cast(T, result)


def carry(
    source: BlobStore, blob: Blob, target: BlobStore, generation: int, progress: Progress | None = None
) -> None:
    """Copy a blob from one store to another, verified on the way; `progress` is called with the bytes of each piece.

    Raises:
        BlobMissingError: it is not there.
        BlobCorruptError: it is damaged; nothing was stored.
    """
    entry = FileEntry(blob.digest, blob.size, blob.digest)
    try:
        with temporary_folder("carried") as folder:
            transfer(
                source,
                target,
                entry,
                folder,
                from_generation=blob.generation,
                to_generation=generation,
                progress=progress,
            )
    except BlobCorruptError as error:
        raise BlobCorruptError(
            f"blob {blob.digest} in {display_url(source.url)} is damaged", hint="fusery audit --repair"
        ) from error
