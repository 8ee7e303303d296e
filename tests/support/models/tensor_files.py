"""Changing the tensors of a model or of an adapter on disk.  Import it as `from tensor_files import rewrite`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

FloatType = Literal["bfloat16", "float16", "float32"]


Raw = tuple[str, np.ndarray[Any, Any]]
"""A tensor as stored: safetensors dtype name and an array of the same item size (uint16 for BF16)."""


_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def write_tensors(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None) -> None:
    """Write a safetensors file in the way of mlx: no padding, `__metadata__` null if there is none."""
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


Change = Callable[[dict[str, Raw]], object]
_NUMPY = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32, "U32": np.uint32}
_NUMPY |= dict.fromkeys(("U8", "F8_E4M3"), np.uint8)


def load_raw(path: Path) -> dict[str, Raw]:
    """Return the tensors of a file or of a folder's weights as `write_tensors` takes them."""
    return {
        name: (dtype, np.frombuffer(data, _NUMPY[dtype]).reshape(shape).copy())
        for name, (dtype, shape, data) in read_tensors(path).items()
    }


def rewrite(place: Path, change: Change, form: str | None = "mlx") -> None:
    """Change the tensors of a file, or of the one file of a model's or an adapter's folder, in place."""
    path = place if place.is_file() else next(place.glob("*.safetensors"))
    raw = load_raw(path)
    change(raw)
    write_tensors(path, raw, {"format": form} if form else None)


def numbers(path: Path, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a tensor of a file or of a folder's weights in float64, whatever float format it is in."""
    from fusery.registry.engine.arithmetic import FORMATS, decode

    dtype, shape, data = read_tensors(path)[name]
    form = FORMATS[dtype]
    return decode(np.frombuffer(data, form.stored), form).astype(np.float64).reshape(shape)


def weight(folder: Path, module: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a module's weight in float64, dequantised by the configuration if it is packed."""
    from fusery.registry.engine.affine import Grid
    from fusery.registry.engine.arithmetic import FORMATS

    tensors = read_tensors(folder)
    if f"{module}.scales" not in tensors:
        return numbers(folder, f"{module}.weight")
    entries = json.loads((folder / "config.json").read_text())["quantization"]
    entry, form = entries.get(module, entries), FORMATS[tensors[f"{module}.scales"][0]]
    grid = Grid(entry["bits"], entry["group_size"], form)
    words, scales, biases = (
        np.frombuffer(tensors[f"{module}.{part}"][2], kind)
        for part, kind in (("weight", "<u4"), ("scales", form.stored), ("biases", form.stored))
    )
    values = dequantized(words, scales, biases, grid)
    return values.astype(np.float64).reshape(tensors[f"{module}.scales"][1][0], -1)


def dequantized(words: Any, scales: Any, biases: Any, grid: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the numbers (groups, group size) of an affine weight as stored."""
    from fusery.registry.engine.affine import dequantize, unpack
    from fusery.registry.engine.arithmetic import decode

    words = words.reshape(-1, grid.words_per_group)
    codes = np.empty((grid.group_size, len(words)), np.uint32)
    values = np.empty(codes.shape, np.float32)
    unpack(words, grid, codes)
    parts = (decode(part.reshape(-1), grid.form) for part in (scales, biases))
    dequantize(codes, *parts, grid.form, values, np.empty_like(values))
    return np.ascontiguousarray(values.T)
