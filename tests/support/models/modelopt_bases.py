"""Tiny models in NVFP4 as NVIDIA's ModelOpt exports them, with a scale for each tensor, and its arithmetic in plain steps.

`quantize` follows `nvfp4_quantize` of torchao 0.17 number by number, without the engine's bit operations: the nearest of all values.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from tensor_files import Raw, load_raw, write_tensors

Array = np.ndarray[Any, Any]
_F32 = np.float32
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], _F32)
E4M3 = np.array(
    [(m / 8 if not e else 1 + m / 8) * 2.0 ** (max(e, 1) - 7) for e in range(16) for m in range(8)][:127],
    _F32,
)
QUANTIZATION = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}


def nearest(values: Array, table: Array) -> Array:
    """Return the index of the nearest number of a table; of two equally near, the even index."""
    between = (table[:-1] + table[1:]) / 2
    lower = np.searchsorted(between, values)
    tied = np.append(between, np.inf)[lower] == values
    return lower + (tied & (lower % 2 == 1))


@np.errstate(over="ignore")
def quantize(weight: Array, tensor_scale: float) -> tuple[Array, Array]:
    """Return the codes of float32 numbers, uint8 (rows, columns), and their scales, uint8 (rows, columns / 16)."""
    groups, scale = weight.reshape(len(weight), -1, 16), _F32(tensor_scale)
    quotients = np.clip(np.abs(groups).max(axis=-1) / _F32(6) / scale, _F32(2**-6), _F32(448))
    scales = nearest(quotients, E4M3)
    scaled = np.clip(groups * ((_F32(1) / scale) / E4M3[scales])[..., None], -6, 6)
    codes = nearest(np.abs(scaled), E2M1) + 8 * np.signbit(groups)
    return codes.reshape(weight.shape).astype(np.uint8), scales.astype(np.uint8)


def dequantize(codes: Array, scales: Array, tensor_scale: float) -> Array:
    """Return the numbers of codes, float32 rounded to bfloat16."""
    factors = (_F32(tensor_scale) * E4M3[scales]).repeat(16, axis=-1)
    signed = E2M1[codes & 7] * np.where(codes & 8, _F32(-1), _F32(1))
    return bf16(signed * factors)


def bf16(values: Array) -> Array:
    """Return float32 numbers rounded to bfloat16."""
    return (tiny_models.encode(values, "bfloat16").astype(np.uint32) << 16).view(_F32)


def packed(codes: Array) -> Array:
    """Return two codes a byte, the first one in the low half."""
    return codes[:, 0::2] | codes[:, 1::2] << 4


def make_modelopt(folder: Path, *, dense: Collection[str] = (), **options: Any) -> Path:
    """Write a random model as `to_modelopt` does; `dense` has the last parts of modules that stay as they are."""
    return to_modelopt(tiny_models.make_base(folder, layout="hf", **options), dense)


def to_modelopt(folder: Path, dense: Collection[str] = ()) -> Path:
    """Put the linear layers of a model's blocks into NVFP4, each with scales of its tensor and of its inputs; return the folder."""
    tensors: dict[str, Raw] = {}
    for name, (dtype, value) in load_raw(folder).items():
        module, _, part = name.rpartition(".")
        if (
            part != "weight"
            or value.ndim != 2
            or ".layers." not in name
            or module.rpartition(".")[2] in dense
        ):
            tensors[name] = dtype, value
            continue
        numbers = (value.astype(np.uint32) << 16).view(_F32)
        scale = _F32(np.abs(numbers).max()) / _F32(2688)
        codes, scales = quantize(numbers, scale)
        tensors[name] = "U8", packed(codes)
        tensors[f"{module}.weight_scale"] = "F8_E4M3", scales
        tensors[f"{module}.weight_scale_2"] = "F32", np.array(scale)
        tensors[f"{module}.input_scale"] = "F32", np.array(_F32(0.01))
    write_tensors(next(folder.glob("*.safetensors")), tensors, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": QUANTIZATION}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
