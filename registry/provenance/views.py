"""Tensors of safetensors files, and their digests: of dtype, shape and bytes, under any name and in any file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest, digest_json
from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Header, decoded, read_header

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_PIECE = 1 << 20
"""Bytes that are read and converted at a time: what stays in a processor's cache."""

_HASHED = 4 << 20
"""Bytes that are read and only hashed at a time.

A thread that hashes wants Python's lock before and after each, and waits for it while another one imports libraries; larger
ones take no more of a processor, as far as this size.
"""

NUMBERS = ("BF16", "F16", "F32", "F64")
"""Dtypes that are plain numbers."""


@dataclass(frozen=True, slots=True)
class View:
    """One tensor of a file; `begin` and `size` are in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    size: int

    @property
    def is_matrix(self) -> bool:
        """It has two dimensions or more."""
        return len(self.shape) > 1


def safetensors_views(path: Path, header: Header) -> list[View]:
    """Return the tensors of a safetensors file."""
    return [
        View(tensor.name, tensor.dtype, tensor.shape, path, tensor.begin, tensor.size)
        for tensor in header.tensors.values()
    ]


def read_views(path: Path) -> list[View]:
    """Return the tensors of a safetensors file of the registry's own."""
    return safetensors_views(path, read_header(path, limit=BASE_HEADER_LIMIT))


def exact_digest(view: View, report: Callable[[int], None] = lambda _: None) -> Digest:
    """Return the digest of dtype, shape and bytes; `report` is called with the bytes of each piece."""
    running = hashlib.sha256()
    for piece in pieces(view, _HASHED):
        running.update(piece)
        report(len(piece))
    return named_digest(view.dtype, view.shape, running.hexdigest())


def named_digest(dtype: str, shape: tuple[int, ...], content: str) -> Digest:
    """Return the digest of a tensor from that of its bytes."""
    return digest_json(["fusery.tensor.v1", dtype, list(shape), content])


def values(view: View) -> Iterator[Array]:
    """Yield the numbers, block by block, as float32 (float64 where they are that)."""
    for piece in pieces(view):
        block = decoded(piece, view.dtype)
        yield block.astype("float32") if view.dtype == "F16" else block


def pieces(view: View, most: int = _PIECE) -> Iterator[memoryview]:
    """Yield a tensor's bytes in order, at most `most` at a time; each piece is good until the next one is asked for."""
    begin, size = view.begin, view.size
    descriptor = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        buffer = memoryview(bytearray(min(most, max(size, 1))))
        while size:
            count = os.preadv(descriptor, [buffer[: min(len(buffer), size)]], begin)
            if not count:
                raise FormatError(f"{view.path.name} became shorter while it was read")
            yield buffer[:count]
            begin, size = begin + count, size - count
    finally:
        os.close(descriptor)
