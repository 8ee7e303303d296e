"""Safetensors files, written as mlx writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

FloatType = Literal["bfloat16", "float16", "float32"]


Raw = tuple[str, np.ndarray[Any, Any]]
"""A tensor as stored: safetensors dtype name and an array of the same item size (uint16 for BF16)."""


_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def write_tensors(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None) -> None:
    """Write a safetensors file in the way of mlx: no padding, `__metadata__` null if there is none.

    The data lie in the order of `tensors`, the header's entries in reverse order, since readers must not
    take the one for the other.
    """
    header: dict[str, Any] = {}
    position = 0
    for name, (dtype, value) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [position, position + value.nbytes],
        }
        position += value.nbytes
    ordered = {"__metadata__": None if metadata is None else dict(metadata)} | dict(reversed(header.items()))
    text = json.dumps(ordered, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, value in tensors.values():
            file.write(np.ascontiguousarray(value).tobytes())


def read_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return name -> (dtype, shape, bytes) of a safetensors file, or of all of a folder's `model*.safetensors`."""
    if path.is_dir():
        files = [read_tensors(file) for file in sorted(path.glob("model*.safetensors"))]
        return {name: value for tensors in files for name, value in tensors.items()}
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            found[name] = (entry["dtype"], tuple(entry["shape"]), data[start + begin : start + end])
    return found


def encode(value: np.ndarray[Any, Any], dtype: FloatType) -> np.ndarray[Any, Any]:
    """Return float32 numbers in a storage type, rounded to nearest even; BF16 as uint16."""
    if dtype == "float16":
        return value.astype(np.float16)
    if dtype == "float32":
        return value.astype(np.float32)
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
