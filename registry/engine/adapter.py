"""Read an adapter for a fuse: the modules that it changes, their factors and the scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

from ..errors import FusionUnsupportedError
from .arithmetic import FORMATS, Array
from .files import read_all

LORA, DORA, FULL = "lora", "dora", "full"
_NAMES = {LORA: "LoRA", DORA: "DoRA", FULL: "full fine-tuning"}
_FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors of one module."""

    a: Tensor  # `lora_a`: (in, rank), of an embedding (rows, rank), of a switch layer (experts, rank, in)
    b: Tensor  # `lora_b`: (rank, out), (rank, columns), or (experts, out, rank)
    m: Tensor | None = None  # DoRA's magnitudes, one for each row of the weight; None for LoRA

    @property
    def switch(self) -> bool:
        """Whether there is one pair for each expert."""
        return len(self.a.shape) == 3

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return self.a.shape[1]

    def shape(self, *, embedding: bool) -> tuple[int, ...]:
        """Return the shape of the product."""
        a, b = self.a.shape, self.b.shape
        if self.switch:
            return (a[0], b[1], a[2])
        return (a[0], b[1]) if embedding else (b[1], a[0])


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """An adapter as mlx-lm's trainer writes it."""

    path: Path
    kind: str
    scale: float
    num_layers: int  # the number of adapted blocks from the end; 0 and less is all of them
    keys: tuple[str, ...] | None  # paths within a block or from the model's root; None for every linear layer
    factors: Mapping[str, Factors]  # by module path; none of a full fine-tune
    tensors: Mapping[str, Tensor]  # of a full fine-tune, by the name of the base's tensor that each replaces


def read_adapter(path: Path, config: Mapping[str, Any], scale: float | None = None) -> TrainedAdapter:
    """Read an adapter's configuration and the header of its tensors; `scale` replaces that of the configuration."""
    kind = config.get("fine_tune_type", LORA)
    if kind not in (LORA, DORA, FULL):
        raise FusionUnsupportedError(f"there is no kind of adapter {str(kind)[:40]!r} in mlx-lm")
    if kind == LORA and config.get("use_dora"):
        hint = 'replace it in adapter_config.json by "fine_tune_type": "dora"'
        raise FusionUnsupportedError("the configuration says use_dora, as for mlx-lm before 0.19", hint=hint)
    if kind == FULL:
        if scale is not None:
            raise FusionUnsupportedError("the result of full fine-tuning has no scale to override")
        tensors = read_header(path, limit=BASE_HEADER_LIMIT).tensors
        return TrainedAdapter(path, kind, 1.0, 0, None, {}, tensors)
    parameters = config.get("lora_parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    factors = _read_factors(path, kind)
    rank = parameters.get("rank")
    for module, pair in factors.items():
        if rank is not None and pair.rank != rank:
            message = f"the tensors for {module} have rank {pair.rank}, its configuration says {rank!r}"
            raise FusionUnsupportedError(message)
    scale = scale if scale is not None else parameters.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        message = f"invalid scale in the adapter's configuration: {str(scale)[:40]} (a finite number)"
        raise FusionUnsupportedError(message)
    number, keys = config.get("num_layers"), parameters.get("keys")
    if type(number) is not int:
        raise FusionUnsupportedError("the configuration has no num_layers, as before mlx-lm 0.19")
    if keys is not None and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise FusionUnsupportedError("the keys in the adapter's configuration are not a list of paths")
    paths = None if keys is None else tuple(keys)
    return TrainedAdapter(path, kind, float(scale), number, paths, factors, {})


def read_stored(tensor: Tensor, file: int, expert: int | None = None) -> Array:
    """Read a tensor of an open adapter file, or one expert's part of it, as stored."""
    size, begin, shape = tensor.size, tensor.begin, tensor.shape
    if expert is not None:
        size, shape = size // shape[0], shape[1:]
        begin += expert * size
    data = np.empty(size, np.uint8)
    read_all(file, data.data, begin)
    return data.view(FORMATS[tensor.dtype].stored).reshape(shape)


def require_linear(adapters: Sequence[tuple[TrainedAdapter, float]], *, whole: bool, scaled: bool) -> None:
    """Refuse a sum of what cannot be added."""
    kinds = {adapter.kind for adapter, _ in adapters}
    weighted = len(adapters) > 1 or adapters[0][1] != 1.0
    if weighted and kinds & {DORA, FULL}:
        name = "DoRA adapters" if DORA in kinds else "results of full fine-tuning"
        raise FusionUnsupportedError(f"{name} cannot be weighted or combined: their effect is not a sum")
    if whole and (weighted or scaled):
        message = "an adapter with whole tensors cannot be scaled, weighted or combined"
        raise FusionUnsupportedError(message, hint="fuse it as it is")


def _read_factors(path: Path, kind: str) -> dict[str, Factors]:
    header = read_header(path)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or (match["part"] == "m" and kind == LORA):
            raise FusionUnsupportedError(f"the adapter's tensor {name!r} is not a {_NAMES[kind]} tensor")
        if tensor.dtype not in FORMATS:
            raise FusionUnsupportedError(f"the tensor {name!r} is {tensor.dtype}, not a float format")
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    return {module: _pair(module, pair, kind) for module, pair in parts.items()}


def _pair(module: str, parts: Mapping[str, Tensor], kind: str) -> Factors:
    needed = {"lora_a", "lora_b"} | ({"m"} if kind == DORA else set())
    if missing := sorted(needed - parts.keys()):
        raise FusionUnsupportedError(f"the adapter holds no {missing[0]} of {module}")
    pair = Factors(parts["lora_a"], parts["lora_b"], parts.get("m"))
    a, b = pair.a.shape, pair.b.shape
    if kind == DORA and pair.switch:
        raise FusionUnsupportedError(f"{module} has experts, which DoRA does not adapt in mlx-lm")
    if pair.switch and len(b) == 3:
        multiply = (a[0], a[1]) == (b[0], b[2])
    else:
        multiply = len(a) == len(b) == 2 and a[1] == b[0]
    if not multiply or 0 in a + b:
        raise FusionUnsupportedError(f"the adapter's tensors for {module} do not multiply: {a}, {b}")
    return pair
