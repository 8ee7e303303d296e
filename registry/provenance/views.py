"""Tensors of safetensors and GGUF files, and their digests: of dtype, shape and bytes, under any name and in any file.

Those of a GGUF file have the names of MLX and Hugging Face, and the rows of queries and keys in their original order.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest, digest_json
from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Header, read_header

from ..models.gguf_header import GGUFHeader, TensorEntry
from ..models.gguf_llama import LINEAR, NORMS

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
"""Bytes of the dtypes that are plain numbers."""

_EXACT = "fusery.tensor.v1"


@dataclass(frozen=True, slots=True)
class View:
    """One tensor of a file: dtype in the words of safetensors or ggml, shape with the outermost dimension first."""

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
    """Return the tensors of a safetensors file of the registry's own."""
    return safetensors_views(path, read_header(path, limit=BASE_HEADER_LIMIT))


def exact_digest(view: View, told: Told | None = None) -> Digest:
    """Return the digest of dtype, shape and bytes."""
    running = hashlib.sha256()
    for piece in pieces(view, _HASHED):
        running.update(piece)
        if told is not None:
            told(len(piece))
    return named_digest(view.dtype, view.shape, running.hexdigest())


def named_digest(dtype: str, shape: tuple[int, ...], content: str) -> Digest:
    """Return the digest of a tensor from that of its bytes."""
    return digest_json([_EXACT, dtype, list(shape), content])


def values(view: View) -> Iterator[Array]:
    """Yield the numbers, block by block, as float32 (float64 where they are that)."""
    from fusery.storage.safetensors import decoded

    for piece in pieces(view):
        block = decoded(piece, view.dtype)
        yield block.astype("float32") if view.dtype == "F16" else block


def whole(view: View) -> Array:
    """Return a small tensor as its items lie in the file, in its shape: unsigned numbers of their size."""
    import numpy as np

    data = np.frombuffer(b"".join(bytes(piece) for piece in pieces(view)), np.uint8)
    width = NUMBERS[view.dtype]
    return data.view(f"<u{width}").reshape(view.shape)


def pieces(view: View, most: int = PIECE) -> Iterator[memoryview | bytes]:
    """Yield a tensor's bytes in order, at most a few MiB at a time; each piece is good until the next one is asked for."""
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


_PLAIN = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2), 28: ("F64", 8)}
"""ggml's types that are numbers one by one, by their number (ggml.h, `ggml_type`)."""

_SIZES = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110)} | {
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
}
"""Numbers and bytes of a block of the quantised types (gguf's constants.py, `GGML_QUANT_SIZES`)."""

_MOST_HEAD = 64 << 20
"""The largest rows of one head that are reordered in memory, in bytes; no model has larger ones."""

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {**LINEAR, **NORMS, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_BLOCK = re.compile(r"blk\.(?P<layer>\d{1,5})\.(?P<key>\w+)")
_TURNED = ("llama",)
"""Architectures whose queries and keys llama.cpp's converter interleaves."""


def gguf_views(path: Path, header: GGUFHeader) -> list[View]:
    """Return the tensors of a GGUF file."""
    found = []
    for entry in header.tensors.values():
        dtype, size = _extent(entry)
        begin = header.data_start + entry.offset
        if begin + size > header.file_size:
            raise FormatError(f"{path.name} is cut short: {entry.name[:80]} goes beyond the end of the file")
        found.append(View(_named(entry.name), dtype, entry.shape, path, begin, size, _head(header, entry)))
    return found


def gguf_texts(header: GGUFHeader, prefix: str) -> dict[str, str]:
    """Return the keys of a GGUF file that begin with a prefix and hold a text, at most a line of it."""
    return {
        key: value[:1000]
        for key, value in header.metadata.items()
        if key.startswith(prefix) and isinstance(value, str)
    }


def _extent(entry: TensorEntry) -> tuple[str, int]:
    count = math.prod(entry.shape)
    if entry.kind in _PLAIN:
        dtype, width = _PLAIN[entry.kind]
        return dtype, count * width
    # A type that is not known here has at least one bit for each number.
    block, size = _SIZES.get(entry.kind, (8, 1))
    return f"ggml:{entry.kind}", -(-count // block) * size


def _named(name: str) -> str:
    """Return llama.cpp's name in the words of Hugging Face; what is not known stays as it is."""
    for ending, theirs in ((".lora_a", ".lora_a"), (".lora_b", ".lora_b")):
        if name.endswith(ending):
            return _named(name.removesuffix(ending)).removesuffix(".weight") + theirs
    stem, _, part = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{part}"
    match = _BLOCK.fullmatch(stem)
    inner: Mapping[str, str] = _INNER
    if match is None or match["key"] not in inner:
        return name
    return f"model.layers.{int(match['layer'])}.{inner[match['key']]}.{part}"


def _head(header: GGUFHeader, entry: TensorEntry) -> int | None:
    """Return the width of the heads whose rows were interleaved, None where they were not."""
    architecture = header.metadata.get("general.architecture")
    stem = entry.name.removesuffix(".lora_b")
    if (
        architecture not in _TURNED
        or entry.name.endswith(".lora_a")
        or not re.fullmatch(r"blk\.\d+\.attn_[qk]\.(weight|bias)", stem)
    ):
        return None
    heads, hidden = (
        header.metadata.get(f"llama.{key}") for key in ("attention.head_count", "embedding_length")
    )
    width = header.metadata.get("llama.attention.key_length")
    if not _whole(width) and _whole(heads) and _whole(hidden):
        width = int(str(hidden)) // int(str(heads))
    if not _whole(width):
        return None
    head = int(str(width))
    _, size = _extent(entry)
    fits = head % 2 == 0 and entry.shape[0] % head == 0 and size // entry.shape[0] * head <= _MOST_HEAD
    return head if fits else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20
