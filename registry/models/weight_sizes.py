"""How large the numbers in a base's weights are, from a few rows of each: enough to tell an update that drowns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.errors import FuseryError
from fusery.storage.safetensors import Tensor

from ..engine.affine import BITS, GROUP_SIZES, Grid, Packed, unpack_rows
from ..engine.arithmetic import FORMATS, decode
from ..engine.base import Base, read_base

_ROWS = 32
_BYTES = 1 << 20


def weight_sizes(
    files: Mapping[str, Path], config: Mapping[str, Any], modules: Sequence[str]
) -> dict[str, float]:
    """Return the root mean square of the numbers in the first rows of weights, by module.

    Left out is what cannot be told from names and rows alone: formats other than MLX's affine one, experts, and bases
    whose tensors mlx-lm rearranges.

    Args:
        files: the base's files by name, to where they can be read.
        config: its `config.json`.
        modules: paths of modules.
    """
    try:
        base = read_base(files, config)
    except FuseryError:
        return {}
    found = {}
    for module in modules:
        size = _size(base, module)
        if size is not None and np.isfinite(size):
            found[module] = size
    return found


def _size(base: Base, module: str) -> float | None:
    source = base.tensors.get(f"{module}.weight")
    if source is None or len(source.shape) != 2 or not source.tensor.size:
        return None
    rows = max(1, min(_ROWS, source.shape[0], _BYTES * source.shape[0] // source.tensor.size))
    grid = _grid(base, module)
    try:
        if grid is None:
            if source.tensor.dtype not in FORMATS:
                return None
            form = FORMATS[source.tensor.dtype]
            values = decode(_rows(base, f"{module}.weight", rows).view(form.stored), form)
        else:
            words = _rows(base, f"{module}.weight", rows).view("<u4").reshape(-1, grid.words_per_group)
            scales, biases = (
                _rows(base, f"{module}.{part}", rows).view(grid.stored).reshape(-1)
                for part in ("scales", "biases")
            )
            values = unpack_rows(Packed(words, scales, biases), grid)
    except (OSError, ValueError, KeyError):
        return None
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _grid(base: Base, module: str) -> Grid | None:
    """Return how a module's weight is packed; None for a dense one, or one that is packed in another way."""
    scales = base.tensors.get(f"{module}.scales")
    return None if scales is None else affine_grid(base.quantization, module, scales.tensor.dtype)


def affine_grid(quantization: Mapping[str, Any], module: str, dtype: str) -> Grid | None:
    """Return how a module's weight is packed in MLX's affine format, from the configuration; None in any other.

    Args:
        quantization: MLX's entry of the base.
        module: its path.
        dtype: of its scales.
    """
    own = quantization.get(module)
    settings = {**quantization, **(own if isinstance(own, Mapping) else {})}
    bits, group_size = settings.get("bits"), settings.get("group_size")
    if bits not in BITS or group_size not in GROUP_SIZES or dtype not in FORMATS:
        return None
    return Grid(bits, group_size, FORMATS[dtype])


def _rows(base: Base, name: str, rows: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of the first rows of a tensor."""
    source = base.tensors[name]
    tensor: Tensor = source.tensor
    size = tensor.size // tensor.shape[0] * rows
    with base.files[source.file].open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        data = file.read(size)
    if len(data) < size:
        raise ValueError("the file ends before the tensor does")
    return np.frombuffer(data, np.uint8)
