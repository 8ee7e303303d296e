"""Changing the tensors of a model or of an adapter on disk.  Import it as `from tensor_files import rewrite`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

from fusery.registry.engine.affine import Grid, Packed, unpack_rows
from fusery.registry.engine.arithmetic import FORMATS, decode

Change = Callable[[dict[str, tiny_models.Raw]], object]
_NUMPY = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32, "U32": np.uint32, "U8": np.uint8}


def load_raw(path: Path) -> dict[str, tiny_models.Raw]:
    """Return the tensors of a file or of a folder's weights as `tiny_models.write_tensors` takes them."""
    return {
        name: (dtype, np.frombuffer(data, _NUMPY[dtype]).reshape(shape).copy())
        for name, (dtype, shape, data) in tiny_models.read_tensors(path).items()
    }


def rewrite(folder: Path, change: Change, form: str = "mlx") -> None:
    """Change the tensors of a model or adapter of one file in place."""
    path = next(folder.glob("*.safetensors"))
    raw = load_raw(path)
    change(raw)
    tiny_models.write_tensors(path, raw, {"format": form})


def numbers(path: Path, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a tensor of a file or of a folder's weights in float64, whatever float format it is in."""
    dtype, shape, data = tiny_models.read_tensors(path)[name]
    form = FORMATS[dtype]
    return decode(np.frombuffer(data, form.stored), form).astype(np.float64).reshape(shape)


def weight(folder: Path, module: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a module's weight in float64, dequantised by the configuration if it is packed."""
    tensors = tiny_models.read_tensors(folder)
    if f"{module}.scales" not in tensors:
        return numbers(folder, f"{module}.weight")
    entries = json.loads((folder / "config.json").read_text())["quantization"]
    entry, form = entries.get(module, entries), FORMATS[tensors[f"{module}.scales"][0]]
    grid = Grid(entry["bits"], entry["group_size"], form)
    words, scales, biases = (
        np.frombuffer(tensors[f"{module}.{part}"][2], kind)
        for part, kind in (("weight", "<u4"), ("scales", form.stored), ("biases", form.stored))
    )
    values = unpack_rows(Packed(words.reshape(-1, grid.words_per_group), scales, biases), grid)
    return values.astype(np.float64).reshape(tensors[f"{module}.scales"][1][0], -1)
