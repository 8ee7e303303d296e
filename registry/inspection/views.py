"""Tensors wherever they lie: in safetensors, or in a GGUF file with its rows in their original order, and their digests.

`digest` is that of dtype, shape and bytes, so that a tensor is the same under any name and in any file.  `loose` is that
of its numbers as float16: what was converted from bf16 or float32 to float16, or on to float32, keeps it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest, digest_json
from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Header, read_header

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PIECE = 1 << 20
"""Bytes that are read and reckoned with at a time: what stays in a processor's cache."""

_HASHED = 4 << 20
"""Bytes that are read and only hashed at a time.

A thread that hashes wants Python's lock before and after each, and waits for it while another one imports libraries; larger
ones take no more of a processor, as far as this size.
"""

NUMBERS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Bytes of the dtypes that can be rounded to float16."""

_EXACT, _LOOSE = "fusery.tensor.v1", "fusery.tensor.f16.v1"


@dataclass(frozen=True, slots=True)
class View:
    """One tensor of a file.

    Attributes:
        name: as models of MLX and Hugging Face call it.
        dtype: in the words of safetensors, or ggml's name of a quantised type.
        shape: outermost dimension first.
        path: the file.
        begin: offset of its first byte.
        size: bytes.
        head: rows of an attention head that llama.cpp interleaved, None where rows are as they were.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    size: int
    head: int | None = None

    @property
    def is_matrix(self) -> bool:
        """It has two dimensions or more."""
        return len(self.shape) > 1


Told = Callable[[int], None]


def safetensors_views(path: Path, header: Header) -> list[View]:
    """Return the tensors of a safetensors file."""
    return [
        View(tensor.name, tensor.dtype, tensor.shape, path, tensor.begin, tensor.size)
        for tensor in header.tensors.values()
    ]


def read_views(path: Path) -> list[View]:
    """Return the tensors of a safetensors file of the registry's own.

    Raises:
        FormatError: it is malformed.
    """
    return safetensors_views(path, read_header(path, limit=BASE_HEADER_LIMIT))


def header_digest(path: Path, data_start: int) -> Digest:
    """Return the digest of all that comes before a file's first tensor; it and the tensors' make up the file."""
    running = hashlib.sha256()
    for piece in _read(path, 0, data_start):
        running.update(piece)
    return digest_json(["fusery.header.v1", running.hexdigest()])


def exact_digest(view: View, told: Told | None = None) -> Digest:
    """Return the digest of dtype, shape and bytes.

    Raises:
        FormatError: the file became shorter.
        OSError: it cannot be read.
    """
    running = hashlib.sha256()
    for piece in pieces(view, _HASHED):
        running.update(piece)
        if told is not None:
            told(len(piece))
    return named_digest(view.dtype, view.shape, running.hexdigest())


def named_digest(dtype: str, shape: tuple[int, ...], content: str) -> Digest:
    """Return the digest of a tensor from that of its bytes."""
    return digest_json([_EXACT, dtype, list(shape), content])


def loose_digest(view: View, told: Told | None = None) -> Digest | None:
    """Return the digest of the numbers as float16; None of what has no such numbers."""
    if view.dtype not in NUMBERS:
        return None
    return loose_of(view.shape, values(view, told))


def loose_of(shape: tuple[int, ...], blocks: Iterator[Array]) -> Digest:
    """Return the digest of numbers as float16, which come block by block."""
    import numpy as np

    running = hashlib.sha256()
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks:
            running.update(block.astype("<f2").data)
    return digest_json([_LOOSE, list(shape), running.hexdigest()])


def values(view: View, told: Told | None = None) -> Iterator[Array]:
    """Yield the numbers, block by block, as float32 (float64 where they are that)."""
    from fusery.storage.numbers import decoded

    for piece in pieces(view):
        block = decoded(piece, view.dtype)
        yield block.astype("float32") if view.dtype == "F16" else block
        if told is not None:
            told(len(piece))


def whole(view: View) -> Array:
    """Return a small tensor as its items lie in the file, in its shape: unsigned numbers of their size."""
    import numpy as np

    data = np.frombuffer(b"".join(bytes(piece) for piece in pieces(view)), np.uint8)
    width = NUMBERS[view.dtype]
    return data.view(f"<u{width}").reshape(view.shape)


def pieces(view: View, most: int = PIECE) -> Iterator[memoryview | bytes]:
    """Yield a tensor's bytes in order, at most a few MiB at a time; each piece is good until the next one is asked for.

    Raises:
        FormatError: the file became shorter.
        OSError: it cannot be read.
    """
    if view.head is None:
        yield from _read(view.path, view.begin, view.size, most)
        return
    import numpy as np

    rows = view.shape[0]
    row_bytes = view.size // rows
    step = max(1, PIECE // max(1, row_bytes * view.head)) * view.head
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = b"".join(
            bytes(piece) for piece in _read(view.path, view.begin + start * row_bytes, count * row_bytes)
        )
        turned = np.frombuffer(data, np.uint8).reshape(-1, view.head // 2, 2, row_bytes).swapaxes(1, 2)
        yield turned.tobytes()


def _read(path: Path, begin: int, size: int, most: int = PIECE) -> Iterator[memoryview]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        buffer = memoryview(bytearray(min(most, max(size, 1))))
        while size:
            count = os.preadv(descriptor, [buffer[: min(len(buffer), size)]], begin)
            if not count:
                raise FormatError(f"{path.name} became shorter while it was read")
            yield buffer[:count]
            begin, size = begin + count, size - count
    finally:
        os.close(descriptor)
