"""Bytes that go from one store straight into a file that is to last."""

from __future__ import annotations

import os

from .copying import Progress, flushing
from .interface import Blob, BlobStore
from .publishing import write_all


def pour_into(store: BlobStore, blob: Blob, fd: int, progress: Progress | None = None) -> None:
    """Write a blob's bytes to an open file; they are verified once this returns, and the disk is at work meanwhile.

    Args:
        store: where the blob is.
        blob: its digest, the size that it must have, and its generation.
        fd: file descriptor; what is in the file goes away.
        progress: called with the number of bytes of each piece that arrives.

    Raises:
        AbsentBlobError, DigestMismatchError, StoreUnavailableError: as `BlobStore.pour`.
        OSError: a write failed.
    """
    with flushing(fd) as written:

        def begin() -> None:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)

        def keep(piece: bytes | memoryview) -> None:
            write_all(fd, piece)
            written(len(piece))
            if progress:
                progress(len(piece))

        store.pour(blob, keep, begin)
