"""Blobs from one store to another: verified on the way, and on this machine's disk no more often than they must be."""

from __future__ import annotations

import uuid
from pathlib import Path

from .copying import Progress
from .interface import Blob, BlobStore
from .local import LocalStore
from .manifest import FileEntry


def transfer(
    origin: BlobStore,
    target: BlobStore,
    entry: FileEntry,
    scratch: Path,
    *,
    from_generation: int = 0,
    to_generation: int = 0,
    progress: Progress | None = None,
) -> Blob:
    """Store a blob of another store.

    The origin is only read.  From an object store to a folder the bytes go straight into the part file; between two object
    stores they lie on this machine meanwhile, since what is uploaded must be known to match before it has a name.

    Args:
        origin: where the blob is.
        target: where it is to be, too.
        entry: its size and digest.
        scratch: a folder on this machine with room for it.
        from_generation: its generation at the origin.
        to_generation: its generation at the target.
        progress: called with the number of bytes of each piece that arrives; of those that had to be read again, more than once.

    Raises:
        AbsentBlobError: it is not at the origin.
        DigestMismatchError: it is damaged there; nothing was stored.
        OutOfSpaceError: the target, or the scratch folder, is full.
        StoreDeniedError: the one may not be read or the other not be written.
        StoreUnavailableError: one of the two failed.
    """
    path = origin.local_path(entry.sha256, generation=from_generation)
    if path is not None:
        return target.put_file(path, expected=entry, generation=to_generation, progress=progress)
    blob = Blob(entry.sha256, entry.size, from_generation)
    if isinstance(target, LocalStore):
        return target.put_poured(origin, blob, generation=to_generation, progress=progress)
    part = scratch / f"{entry.sha256}.{uuid.uuid4().hex}"
    try:
        origin.fetch(entry.sha256, part, generation=from_generation)
        return target.put_file(part, expected=entry, generation=to_generation, progress=progress)
    finally:
        part.unlink(missing_ok=True)
