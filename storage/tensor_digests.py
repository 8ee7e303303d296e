"""The digest of a safetensors file and of each tensor in it, in one pass over its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .copying import Progress, reading
from .digest import CHUNK, Digest
from .errors import FormatError
from .failures import os_failures
from .safetensors import Header, Tensor


@dataclass(frozen=True, slots=True)
class TensorDigests:
    """What a safetensors file holds, by digests.

    Attributes:
        digest: of the whole file.
        size: bytes of the whole file.
        tensors: of the bytes of each tensor, by its name.
    """

    digest: Digest
    size: int
    tensors: dict[str, Digest]


def digest_tensors(path: Path, header: Header, *, progress: Progress | None = None) -> TensorDigests:
    """Return the digests of a file and of its tensors.

    Every byte is read once and hashed twice, on two cores at the same time.

    Args:
        path: a regular file, without links.
        header: what `read_header` said of it.
        progress: called with the bytes of each piece that was read.

    Raises:
        FormatError: the file is not of the size that its header was read from.
        StorageError: it changed while it was read.
        MissingFileError, StoreDeniedError: it cannot be read.
    """
    whole, position = hashlib.sha256(), 0
    pieces = _Pieces(header)
    with (
        reading(path) as source,
        os_failures(f"read {path}", near=path),
        ThreadPoolExecutor(1) as pool,
    ):
        hashed: Future[None] | None = None
        while chunk := os.read(source.fd, min(CHUNK, source.size - position)):
            if hashed is not None:
                hashed.result()
            hashed = pool.submit(whole.update, chunk)
            pieces.update(chunk, position)
            position += len(chunk)
            if progress:
                progress(len(chunk))
        if hashed is not None:
            hashed.result()
        source.require_unchanged()
    if position != header.size:
        raise FormatError(f"{path.name} has {position} bytes now, and had {header.size}")
    return TensorDigests(Digest(whole.hexdigest()), position, pieces.digests)


class _Pieces:
    """Hashes tensors, which follow each other without gaps, as their bytes come by."""

    def __init__(self, header: Header) -> None:
        self.digests: dict[str, Digest] = {}
        self._tensors: Iterator[Tensor] = iter(header.tensors.values())
        self._running = hashlib.sha256()
        self._tensor = next(self._tensors, None)
        self._finish(header.data_start)

    def update(self, chunk: bytes, position: int) -> None:
        """Take in the bytes at a position of the file."""
        view, end = memoryview(chunk), position + len(chunk)
        while self._tensor is not None and self._tensor.begin < end:
            first, last = max(self._tensor.begin, position), min(self._tensor.end, end)
            self._running.update(view[first - position : last - position])
            if self._tensor.end > end:
                return
            self._finish(last)

    def _finish(self, position: int) -> None:
        """Close all tensors that end here: the one at hand, and empty ones behind it."""
        while self._tensor is not None and self._tensor.end <= position:
            self.digests[self._tensor.name] = Digest(self._running.hexdigest())
            self._running = hashlib.sha256()
            self._tensor = next(self._tensors, None)
