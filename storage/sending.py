"""What is sent to a store: a file's bytes at once or in parts, and how much of them has arrived."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from .copying import Progress, Source
from .digest import Digest
from .errors import StorageError, StoreUnavailableError
from .failures import os_failures


def content_of(source: Source) -> bytes:
    """Return the bytes of a file that is open, which may not be written to meanwhile."""
    with os_failures(f"read {source.path}", near=source.path), os.fdopen(os.dup(source.fd), "rb") as file:
        data = file.read(source.size)
    source.require_unchanged()
    return data


class Arrived:
    """How much of a file has arrived: an upload that begins anew tells nothing until it is further than the last."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._told = 0

    def once_more(self) -> Progress:
        """Return whom an upload from the beginning is to tell."""
        reached = 0

        def add(count: int) -> None:
            nonlocal reached
            reached += count
            self.tell(reached)

        return add

    def tell(self, reached: int) -> None:
        """Tell that so many bytes have arrived."""
        if self._progress and reached > self._told:
            count, self._told = reached - self._told, reached
            self._progress(count)


def not_kept(where: str, *, aborted: bool) -> StoreUnavailableError:
    """Return the error for what could not be written, however often it was tried.

    Args:
        where: what was written to.
        aborted: the last upload was gone before it was complete.
    """
    if not aborted:
        return StoreUnavailableError(f"{where} does not keep what is written to it")
    return StoreUnavailableError(
        f"uploads to {where} are aborted before they are complete",
        hint="find out who aborts them, such as a rule of the bucket, then run the command again",
    )


def read_parts(source: Source, digest: Digest, size: int) -> Iterator[bytes]:
    """Read a file in parts of `size` bytes; the last is given out only if all of them have the digest.

    Raises:
        StorageError: the file is not any more what it was when it was hashed.
    """
    running = hashlib.sha256()
    offset = 0
    while offset < source.size:
        with os_failures(f"read {source.path}", near=source.path):
            data = os.pread(source.fd, min(size, source.size - offset), offset)
        running.update(data)
        offset += len(data)
        if not data or offset >= source.size and running.hexdigest() != digest:
            source.require_unchanged()
            raise StorageError(
                f"{source.path} changed while it was read", hint="run the command again when it is complete"
            )
        yield data
