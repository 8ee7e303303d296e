"""A GGUF file written from its beginning to its end: keys and list of tensors by llama.cpp's `gguf` package, numbers block by block.

Format: ggml's page gguf.md, version 3, little-endian.  The same keys and tensors in the same order give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import MissingExtraError

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
"""What a key can hold: texts, truth values, whole numbers (32 bits), real numbers (32 bits), or a list of one of them."""

ALIGNMENT = 32
"""Bytes that the beginning of every tensor is a multiple of (`general.alignment`, which is not written)."""


class Output(Protocol):
    """A file that is written from its beginning to its end."""

    size: int

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""

    def flush(self) -> None:
        """Pass on what is buffered."""

    def announce(self, size: int) -> None:
        """Take note of how many bytes are still to come."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written.

    Attributes:
        name: llama.cpp's name.
        shape: outermost dimension first, as in PyTorch; GGUF stores the reverse.
        kind: name of its ggml type, such as `BF16`.
        blocks: gives its bytes, in order, when it is its turn.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    blocks: Callable[[], Iterator[bytes | memoryview]]


def require_gguf() -> None:
    """Refuse to begin without the package.

    Raises:
        MissingExtraError: `gguf` or `tokenizers` is not installed.
    """
    import importlib

    for package in ("gguf", "tokenizers"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError("writing a GGUF file", "gguf") from error


def byte_size(shape: Sequence[int], kind: str) -> int:
    """Return the bytes of a tensor, padding left out."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return int(math.prod(shape) // block * size)


def write_container(
    file: Output, architecture: str, keys: Mapping[str, Value], tensors: Sequence[Planned]
) -> None:
    """Write a GGUF file.

    Args:
        file: new and empty.
        architecture: `general.architecture`.
        keys: the other keys, in the order in which they are written; empty texts are left out.
        tensors: in the order in which they are written.
    """
    from gguf.constants import GGMLQuantizationType

    writer = _writer(file, architecture)
    for key, value in keys.items():
        if value != "":
            writer.add_key_value(key, value, *_types(value))
    for tensor in tensors:
        kind, size = GGMLQuantizationType[tensor.kind], byte_size(tensor.shape, tensor.kind)
        writer.add_tensor_info(tensor.name, tensor.shape, None, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file.announce(sum(byte_size(tensor.shape, tensor.kind) + ALIGNMENT for tensor in tensors))
    for tensor in tensors:
        file.write(bytes(-file.size % ALIGNMENT))
        begin, size = file.size, byte_size(tensor.shape, tensor.kind)
        for block in tensor.blocks():
            file.write(block)
        if file.size - begin != size:
            raise AssertionError(f"{tensor.name} has {file.size - begin} bytes, and {size} were announced")
    file.write(bytes(-file.size % ALIGNMENT))


def _writer(file: Output, architecture: str) -> Any:
    from gguf.constants import GGUFValueType
    from gguf.gguf_writer import GGUFWriter, WriterState

    class Writer(GGUFWriter):  # type: ignore[misc]  # untyped package
        """The package's writer, which opens its file itself and knows no empty list."""

        def open_output_file(self, path: Any = None) -> None:
            self.fout, self.state = [file], WriterState.EMPTY

        def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
            if vtype is GGUFValueType.ARRAY and not val and sub_type is not None:
                # llama.cpp wants a list of merges, and a tokenizer of single bytes has none.
                head = self._pack("I", vtype) if add_vtype else b""
                return bytes(head + self._pack("I", sub_type) + self._pack("Q", 0))
            return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))

    return Writer(None, architecture)


def _types(value: Value) -> tuple[Any, ...]:
    from gguf.constants import GGUFValueType

    if isinstance(value, str):
        return (GGUFValueType.STRING,)
    if isinstance(value, bool):
        return (GGUFValueType.BOOL,)
    if isinstance(value, int):
        return (GGUFValueType.UINT32,)
    if isinstance(value, float):
        return (GGUFValueType.FLOAT32,)
    first = value[0] if value else ""
    item = (
        GGUFValueType.STRING
        if isinstance(first, str)
        else GGUFValueType.INT32
        if isinstance(first, int)
        else GGUFValueType.FLOAT32
    )
    return GGUFValueType.ARRAY, item
