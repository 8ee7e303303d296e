"""The safetensors container: a reader, stricter than the reference's, and a writer of its header, without reading any tensor."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .copying import Progress, reading
from .digest import CHUNK, Digest
from .errors import FormatError
from .failures import opened, os_failures
from .jsonfile import parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


ADAPTER_HEADER_LIMIT = 16 << 20
"""Bytes of header accepted for an adapter."""

BASE_HEADER_LIMIT = 100_000_000
"""Bytes of header accepted for a base model: the limit of the reference reader."""

MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_NAME = 512
MAX_VALUES = 2_000_000
"""Values in a header, commas in its texts included: twenty for each of the most tensors that are accepted."""

HOLLOW = 16 << 30
"""Bytes from which an adapter must really lie on the disk: holes cost nothing to send, and hours to read."""

METADATA = "__metadata__"
"""The one key of a header that is not a tensor."""

_DTYPES = {
    4: ("F4",),
    6: ("F6_E2M3", "F6_E3M2"),
    8: ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"),
    16: ("I16", "U16", "F16", "BF16"),
    32: ("I32", "U32", "F32"),
    64: ("C64", "F64", "I64", "U64"),
}
BITS: Mapping[str, int] = {name: bits for bits, names in _DTYPES.items() for name in names}
"""Bits per element of every known dtype."""

_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_COUNT_LIMIT = 1 << 63
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: `begin` and `end` are offsets in the file, not in the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file holds, in the order of the bytes; they begin at `data_start`."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data_start: int
    size: int


class _Problem(Exception):
    """A reason to refuse, to be completed with the file's name."""


def read_header(path: Path, *, limit: int = ADAPTER_HEADER_LIMIT) -> Header:
    """Read and check the header of a safetensors file; of the tensors only the extent is looked at."""
    with opened(path) as file:
        try:
            return _read(file, limit)
        except _Problem as problem:
            raise FormatError(f"{path.name} is not a valid safetensors file: {problem}") from None


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes that a tensor takes in the file."""
    if dtype not in BITS:
        raise FormatError(f"unknown safetensors dtype {dtype[:40]!r}")
    bits = prod(shape) * BITS[dtype]
    if bits % 8:
        raise FormatError(f"the {bits} bits of a tensor in {dtype} do not end on a byte")
    return bits // 8


Entry = tuple[str, str, tuple[int, ...]]  # name, dtype and shape of a tensor


def build_header(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the first bytes of a file for tensors by name, dtype and shape, padded to a multiple of eight."""
    header: dict[str, object] = {}
    if metadata is not None:
        header[METADATA] = dict(metadata)
    position = 0
    for name, dtype, shape in entries:
        if problem := _name_problem(name):
            raise FormatError(problem)
        if name in header or name == METADATA:
            raise FormatError(f"the tensor name {name!r} is taken")
        end = position + tensor_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read(file: BinaryIO, limit: int) -> Header:
    file_status = os.fstat(file.fileno())
    size = file_status.st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise _Problem("it is shorter than eight bytes")
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise _Problem("its header is said to be longer than the file")
    if length > limit:
        raise _Problem(f"its header of {length} bytes is over the limit of {limit}")
    # File systems without blocks may report zero: files of a usual size are not checked.
    if limit <= ADAPTER_HEADER_LIMIT and size > HOLLOW and file_status.st_blocks * 512 < size // 16:
        raise _Problem(f"of its {size:,} bytes nearly all are holes (was the download finished?)")
    text = file.read(length)
    if len(text) < length:
        raise _Problem("it was cut short while being read")
    return _parsed(text, size)


def _parsed(text: bytes, size: int) -> Header:
    document = _parse_json(text)
    metadata = _check_metadata(document.pop(METADATA, None))
    if len(document) > MAX_TENSORS:
        raise _Problem(f"it holds {len(document)} tensors, more than {MAX_TENSORS}")
    data_start = 8 + len(text)
    tensors = [_check_entry(name, entry, data_start) for name, entry in document.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_extent(tensors, data_start, size)
    return Header({tensor.name: tensor for tensor in tensors}, metadata, data_start, size)


def _parse_json(text: bytes) -> dict[str, Any]:
    """Parse the header, refusing repeated keys and crowds before they are built."""
    # The README has the brace as the very first byte, and spaces as the only padding.
    if not text.startswith(b"{") or not text.rstrip(b" ").endswith(b"}"):
        raise _Problem("its header is not a JSON object from the first byte to the padding")
    try:
        document: dict[str, Any] = parse_json(text, "its header", most=MAX_VALUES)
    except FormatError as error:
        raise _Problem(error.message) from None
    return document


def _check_metadata(value: Any) -> dict[str, str]:
    # mlx writes null where there is nothing to say.
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _Problem("its metadata is not a mapping of text to text")
    if any(_SURROGATE.search(key + text) for key, text in value.items()):
        raise _Problem("its metadata holds half of a character")
    return value


def _check_entry(name: str, entry: Any, data_start: int) -> Tensor:
    if problem := _name_problem(name):
        raise _Problem(problem)
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _Problem(f"the entry of {_shown(name)} is not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _Problem(f"{_shown(name)} has the unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _Problem(f"the shape of {_shown(name)} is not a list of up to {MAX_DIMENSIONS} whole numbers")
    if prod(size for size in shape if size) >= _COUNT_LIMIT:
        raise _Problem(f"the shape of {_shown(name)} is beyond any memory")
    if not isinstance(offsets, list) or len(offsets) != 2 or not _are_counts(offsets):
        raise _Problem(f"the data_offsets of {_shown(name)} are not two whole numbers")
    begin, end = offsets
    if begin > end or (end - begin) * 8 != prod(shape) * BITS[dtype]:
        raise _Problem(f"the data_offsets of {_shown(name)} do not fit its shape and dtype")
    return Tensor(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_extent(tensors: list[Tensor], data_start: int, size: int) -> None:
    position = data_start
    for tensor in tensors:
        if tensor.begin != position:
            fault = "overlaps the data before it" if tensor.begin < position else "has a gap before it"
            where = f"it begins at byte {tensor.begin}, and the data before it ends at byte {position}"
            raise _Problem(f"{_shown(tensor.name)} {fault}: {where}")
        position = tensor.end
    if position != size:
        hint = " (was it cut short?)" if position > size else ""
        raise _Problem(f"its tensors end at byte {position}, the file at byte {size}{hint}")


def _are_counts(values: list[Any]) -> bool:
    # Asked twice of each tensor, of which there are thousands: no function is called for each number.
    return not [value for value in values if type(value) is not int or not 0 <= value < _COUNT_LIMIT]


def _name_problem(name: str) -> str:
    if not name or len(name) > MAX_NAME:
        return f"a tensor name of {len(name)} characters is not acceptable"
    # The first question is a quick one, and settles it for nearly every name.
    if not name.isprintable() and (_CONTROL.search(name) or _SURROGATE.search(name)):
        return f"the tensor name {_shown(name)} holds control characters"
    if not name.isascii() and not unicodedata.is_normalized("NFC", name):
        # Else two tensors could have what reads as one name.
        return f"the tensor name {_shown(name)} is not in Unicode's composed form"
    return ""


def _shown(name: str) -> str:
    return repr(name[:_SHOWN])


def digest_tensors(
    path: Path, header: Header, *, progress: Progress = None
) -> tuple[Digest, dict[str, Digest]]:
    """Return the digests of a file and of its tensors; every byte is read once, and hashed on two cores."""
    from concurrent.futures import Future, ThreadPoolExecutor

    whole, position, digests = hashlib.sha256(), 0, dict[str, Digest]()
    ends = [("", header.data_start), *((name, tensor.end) for name, tensor in header.tensors.items())]
    with reading(path) as source, os_failures(f"read {path}", near=path), ThreadPoolExecutor(1) as pool:
        hashing: Future[None] = pool.submit(whole.update, b"")
        for name, end in ends:
            running = hashlib.sha256()
            while chunk := os.read(source.fd, min(CHUNK, end - position)):
                hashing.result()
                hashing = pool.submit(whole.update, chunk)
                running.update(chunk)
                position += len(chunk)
                if progress:
                    progress(len(chunk))
            digests[name] = Digest(running.hexdigest())
        position += len(os.read(source.fd, 1))  # a file that has grown is not the header's any more
        source.require_unchanged()
    if position != header.size:
        raise FormatError(f"{path.name} has {position} bytes now, and had {header.size}")
    del digests[""]
    return Digest(whole.hexdigest()), digests


PLAIN: Mapping[str, str] = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""NumPy's types of the floating dtypes that it has; BF16 it has not."""


def decoded(data: bytes | memoryview, dtype: str) -> NDArray[Any]:
    """Return the numbers of a floating dtype in one dimension; those of BF16 as float32, which holds them exactly."""
    import numpy as np

    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.frombuffer(data, PLAIN[dtype])
