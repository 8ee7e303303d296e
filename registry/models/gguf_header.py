"""Read the header of a GGUF file (ggml's gguf.md, versions 2 and 3, little-endian), with every length checked before use."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fusery.storage.errors import FormatError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 1 << 16  # Of metadata keys and of tensors
MAX_STRING = 1 << 20
MAX_HEADER = 1 << 28
MAX_ELEMENTS = 1 << 21  # Of all metadata arrays together; a vocabulary of 256k tokens has about a million
MAX_DIMENSIONS = 4
MAX_WEIGHTS = 1 << 40
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header lists it."""

    name: str
    shape: tuple[int, ...]  # outermost dimension first, as in PyTorch; GGUF stores the reverse
    kind: int
    offset: int  # of its first byte from the start of the data


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The header of a GGUF file."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorEntry]
    data_start: int
    file_size: int


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of the GGUF file at `path`."""
    with path.open("rb") as file:
        size = path.stat().st_size
        reader = _Reader(file, size, path.name)
        reader.magic()
        tensor_count, key_count = (reader.count(what) for what in ("tensors", "metadata entries"))
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = reader.string()
            if key in metadata:
                raise reader.bad(f"the metadata key {key[:80]!r} twice")
            metadata[key] = reader.value(reader.scalar("I"))
        tensors: dict[str, TensorEntry] = {}
        for _ in range(tensor_count):
            entry = reader.tensor()
            if entry.name in tensors:
                raise reader.bad(f"the tensor {entry.name[:80]!r} twice")
            tensors[entry.name] = entry
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise reader.bad(f"an alignment of {str(alignment)[:20]}, not a power of two from 8 to 65536")
        start = math.ceil(file.tell() / alignment) * alignment
    return GGUFHeader(metadata, tensors, start, size)


class _Reader:
    """A cursor over the header that never reads or allocates more than the file can hold."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._left = min(size, MAX_HEADER)
        self._elements = MAX_ELEMENTS
        self._name = name

    def bad(self, what: str) -> FormatError:
        return FormatError(f"{self._name} has {what}")

    def take(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self._left else b""
        if len(data) != count:
            raise FormatError(f"the header of {self._name} is cut short, damaged or too large")
        self._left -= count
        return data

    def scalar(self, code: str) -> int:
        value = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return int(value)

    def magic(self) -> None:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise FormatError(f"{self._name} is not a GGUF file: it does not begin with the letters GGUF")
        self._left -= len(MAGIC)
        version = self.scalar("I")
        if version not in VERSIONS:
            raise FormatError(f"{self._name} has GGUF version {version} (allowed: little-endian 2 and 3)")

    def count(self, what: str) -> int:
        value = self.scalar("Q")
        if value > MAX_ENTRIES:
            raise self.bad(f"{value} {what}, more than {MAX_ENTRIES}")
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        if length > MAX_STRING:
            raise self.bad(f"a string of {length} bytes in its header, more than {MAX_STRING}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad("a string in its header that is not UTF-8") from error

    def value(self, kind: int) -> Value:
        if kind != _ARRAY:
            return self._values(kind, 1)[0]
        item, length = self.scalar("I"), self.scalar("Q")
        if length > self._elements:
            raise self.bad(f"metadata arrays of more than {MAX_ELEMENTS} values")
        self._elements -= length
        return self._values(item, length)

    def _values(self, kind: int, count: int) -> list[Scalar]:
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise self.bad(f"metadata of type {kind}, which is unknown or a nested array")
        form = f"<{count}{_SCALARS[kind]}"
        return list(struct.unpack(form, self.take(struct.calcsize(form))))

    def tensor(self) -> TensorEntry:
        name = self.string()
        dimensions = self.scalar("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.bad(f"the tensor {name[:80]!r} with {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        if 0 in shape or math.prod(shape) > MAX_WEIGHTS:
            raise self.bad(f"the tensor {name[:80]!r} with an impossible shape")
        return TensorEntry(name, tuple(reversed(shape)), self.scalar("I"), self.scalar("Q"))
