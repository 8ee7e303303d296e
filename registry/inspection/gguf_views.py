"""The tensors of a GGUF file under the names of MLX and Hugging Face, with the rows of queries and keys in their original order."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from fusery.storage.errors import FormatError

from ..gguf.header import GGUFHeader, TensorEntry
from ..gguf.llama import LINEAR, NORMS
from .views import View

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
    """Return the tensors of a GGUF file.

    Raises:
        FormatError: one lies outside of the file.
    """
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
