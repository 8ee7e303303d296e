"""How the modules of a base are quantised: by their entries in the configuration, else by their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fusery.storage.failures import opened

from ..errors import FusionUnsupportedError
from .affine import BITS, GROUP_SIZES, Grid, dequantize, quantize
from .architectures import TENSOR_SCALE, NeedsModelClassError
from .arithmetic import FORMATS, Array, Format
from .base import Base, Source
from .microscaling import MODES, NVFP4, FloatGrid

AnyGrid = Grid | FloatGrid

AFFINE = "affine"
_PLAIN = {"bits": 4, "group_size": 64, "mode": AFFINE}
_LEAST_SCALE = 2.0**-121  # times the smallest scale of a group, a smaller one may have no finite reciprocal
_BY_SHAPE = {(grid.bits, grid.group_size): mode for mode, grid in MODES.items()}


def requantized(groups: Array, grid: AnyGrid, form: Format) -> Array:
    """Return finite float32 numbers of a format, (group size, groups), quantised to a grid and back."""
    codes, values = np.empty(groups.shape, np.uint32), np.empty_like(groups)
    if isinstance(grid, Grid):
        scales, biases = quantize(groups, grid, values, codes)
        dequantize(codes, scales, biases, grid.form, values, np.empty_like(groups))
    else:
        grid.dequantize(codes, grid.quantize(groups, codes, form), values)
    return values


def grid_of(base: Base, module: str, columns: int | None = None) -> AnyGrid:
    """Return how a packed module is quantised."""
    weight, scales, biases = (base.tensors.get(f"{module}.{part}") for part in ("weight", "scales", "biases"))
    if weight is None or scales is None:
        raise NeedsModelClassError(f"{module} is quantised in an unknown way")
    if f"{module}.global_scale" in base.tensors:
        message = f"{module} has a scale for the whole tensor (global_scale), which mlx-lm ignores in a fuse"
        raise FusionUnsupportedError(message)
    if (scale := base.tensors.get(f"{module}.{TENSOR_SCALE}")) is not None:
        return _with_tensor_scale(base, module, weight, scales, scale)
    settings = _settings(base, module, columns, weight, scales)
    mode, bits, size = settings["mode"], settings["bits"], settings["group_size"]
    groups, whole = scales.shape[-1], type(bits) is type(size) is int
    fits = whole and weight.shape[-1] * 32 == groups * size * bits and columns in (None, groups * size)
    if not fits or weight.tensor.dtype != "U32" or weight.shape[:-1] != scales.shape[:-1]:
        raise _misfit(module, bits, size)
    if mode == AFFINE:
        form, parts = FORMATS.get(scales.tensor.dtype), {(scales.shape, scales.tensor.dtype)}
        parts.add((biases.shape, biases.tensor.dtype) if biases is not None else ((), ""))
        if form is None or len(parts) > 1 or bits not in BITS or size not in GROUP_SIZES:
            raise _misfit(module, bits, size)
        return Grid(bits, size, form)
    grid = MODES.get(mode) if isinstance(mode, str) else None
    if grid is None:
        raise FusionUnsupportedError(f"{module} is quantised as {str(mode)[:40]}, which mlx does not have")
    if scales.tensor.dtype != "U8" or biases is not None or (bits, size) != (grid.bits, grid.group_size):
        raise _misfit(module, bits, size)
    return grid


def _with_tensor_scale(base: Base, module: str, weight: Source, scales: Source, scale: Source) -> FloatGrid:
    grid = MODES[NVFP4]
    shape = (*weight.shape[:-1], weight.shape[-1] * 8 // grid.group_size)
    dtypes = weight.tensor.dtype, scales.tensor.dtype, scale.tensor.dtype
    whole = weight.shape[-1] * 8 % grid.group_size == 0 and f"{module}.biases" not in base.tensors
    if (
        not whole
        or dtypes != ("U32", "U8", "F32")
        or scale.tensor.size != 4
        or len(shape) != 2
        or scales.shape != shape
    ):
        raise _misfit(module, grid.bits, grid.group_size)
    with opened(base.files[scale.file]) as file:
        file.seek(scale.tensor.begin)
        (value,) = np.frombuffer(file.read(4), "<f4")
    if not _LEAST_SCALE <= value < np.inf:
        raise FusionUnsupportedError(f"invalid {module}.{TENSOR_SCALE}: {value:g} (2^-121 or more, finite)")
    return replace(grid, tensor_scale=float(value))


def bits_of(base: Base, module: str) -> int:
    """Return the bits per number of a packed module, or a guess where its shapes fit several: for counting only."""
    own = (base.formats or base.quantization).get(module)
    if isinstance(own, Mapping) and type(own.get("bits")) is int:
        return int(own["bits"])
    weight, scales = base.tensors[f"{module}.weight"], base.tensors[f"{module}.scales"]
    if scales.tensor.dtype == "U8":
        return int(_by_shape(module, weight, scales)["bits"])
    column_counts = _columns(base, weight, scales) if scales.tensor.dtype in FORMATS else set()
    if len(column_counts) == 1:
        return weight.shape[-1] * 32 // column_counts.pop()
    return int(_default(base)["bits"])


def _misfit(module: str, bits: Any, size: Any) -> FusionUnsupportedError:
    form = f"{str(bits)[:9]} bits in groups of {str(size)[:9]}"
    return FusionUnsupportedError(f"the tensors of {module} do not fit {form}")


def _default(base: Base) -> Mapping[str, Any]:
    return _PLAIN | {key: base.quantization[key] for key in _PLAIN if key in base.quantization}


def _settings(
    base: Base, module: str, columns: int | None, weight: Source, scales: Source
) -> Mapping[str, Any]:
    if base.formats is not None and module in base.formats:
        return dict(base.formats[module])
    own = base.quantization.get(module)
    if isinstance(own, Mapping):
        return _PLAIN | dict(own)
    if own is True:
        return _default(base)
    if own is not None or not base.quantization or 0 in weight.shape + scales.shape:
        raise FusionUnsupportedError(f"{module} is quantised, but the configuration does not say so")
    if scales.tensor.dtype == "U8":
        return _by_shape(module, weight, scales)
    column_counts = _columns(base, weight, scales)
    if columns is not None and len(column_counts) > 1:
        column_counts &= {columns}
    # An adapter's word does not stand against what the base tells: its tensors may be of another one.
    if len(column_counts) != 1 or columns not in (None, *column_counts):
        raise NeedsModelClassError(f"how {module} is quantised is not decided by its shapes")
    (column_count,) = column_counts
    bits, size = weight.shape[-1] * 32 // column_count, column_count // scales.shape[-1]
    return {"bits": bits, "group_size": size, "mode": AFFINE}


def _by_shape(module: str, weight: Source, scales: Source) -> Mapping[str, Any]:
    """Tell the formats with scales of one byte apart: they differ in the bits of a group."""
    for (bits, size), mode in _BY_SHAPE.items():
        if weight.shape[-1] * 32 == scales.shape[-1] * bits * size:
            return {"bits": bits, "group_size": size, "mode": mode}
    raise _misfit(module, "?", "?")


def _columns(base: Base, weight: Source, scales: Source) -> set[int]:
    """Return the unpacked columns that a module may have which the configuration does not name."""
    # 4 bits in groups of 64 and 8 bits in groups of 32 have the same shapes. Where every matrix of a layer is known
    # to be as wide as the model, its inner layer or its heads, the width decides; else it is what most modules have.
    packed, groups = weight.shape[-1] * 32, scales.shape[-1]
    choices = {groups * size for bits in BITS for size in GROUP_SIZES if bits * size * groups == packed}
    usual = groups * int(_default(base)["group_size"])
    likely = choices & _widths(base) if base.all_linear else set()
    candidates = likely or choices
    return {usual} if usual in candidates else candidates


def _widths(base: Base) -> set[int]:
    text = base.config.get("text_config")
    config = {**(text if isinstance(text, Mapping) else {}), **base.config}
    widths = {config.get("hidden_size"), config.get("intermediate_size")}
    heads, size = config.get("num_attention_heads"), config.get("head_dim")
    if type(heads) is int and type(size) is int:
        widths.add(heads * size)
    return {width for width in widths if type(width) is int}
