"""A part of a blob, for whoever puts blobs together elsewhere and verifies them there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .copying import reading
from .digest import CHUNK
from .errors import StoreUnavailableError
from .failures import AbsentBlobError, os_failures
from .interface import Blob, BlobStore
from .local import LocalStore


def read_pieces(store: BlobStore, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes of a blob from one place to another, piece by piece, and *not* verified.

    Args:
        store: where it is.
        blob: its digest, its size and its generation.
        start: the first byte's place.
        stop: the place after the last one's.

    Raises:
        AbsentBlobError: it is not there.
        StoreUnavailableError: the store failed, or has fewer bytes.
    """
    if not isinstance(store, LocalStore):
        from .remote import FsspecStore

        assert isinstance(store, FsspecStore)
        yield from store.span(blob, start, stop)
        return
    path = store.local_path(blob.digest, generation=blob.generation)
    if path is None:
        raise AbsentBlobError(blob.digest, blob.generation, store.url)
    with reading(path) as source, os_failures(f"read {path}", near=path):
        while start < stop:
            piece = os.pread(source.fd, min(CHUNK, stop - start), start)
            if not piece:
                raise StoreUnavailableError(f"{path} ends before its {blob.size} bytes", hint="fusery audit")
            start += len(piece)
            yield piece
