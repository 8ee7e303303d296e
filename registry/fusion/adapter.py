"""The part of an adapter that a fuse is made from: which modules it changes, with which factors and which scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.safetensors import Tensor, read_header

from ..errors import FusionUnsupportedError
from .arithmetic import FORMATS

_FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b)")


@dataclass(frozen=True, slots=True)
class Factors:
    """The two tensors of one module.

    Attributes:
        a: `lora_a`: (in, rank) of a linear layer, (rows, rank) of an embedding.
        b: `lora_b`: (rank, out), or (rank, columns).
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return self.a.shape[1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as mlx-lm's trainer writes it.

    Attributes:
        path: its safetensors file.
        scale: factor of every update.
        num_layers: how many blocks from the end it was trained on; 0 and less is all of them.
        keys: paths of the adapted modules within a block or from the model's root; None for every linear layer.
        factors: by module path.
    """

    path: Path
    scale: float
    num_layers: int
    keys: tuple[str, ...] | None
    factors: Mapping[str, Factors]


def read_adapter(path: Path, config: Mapping[str, Any], scale: float | None = None) -> Adapter:
    """Read an adapter's configuration and the header of its tensors.

    Args:
        path: `adapters.safetensors`.
        config: the parsed `adapter_config.json`.
        scale: instead of the scale in the configuration.

    Raises:
        FusionUnsupportedError: it is not a LoRA adapter of linear layers and embeddings, or contradicts itself.
        FormatError: the file is malformed.
        MissingFileError: it cannot be read.
    """
    _require_lora(config)
    parameters = config.get("lora_parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    factors = _read_factors(path)
    rank = parameters.get("rank")
    for module, pair in factors.items():
        if rank is not None and pair.rank != rank:
            raise FusionUnsupportedError(
                f"the adapter's tensors for {module} have rank {pair.rank}, its configuration says {rank!r}"
            )
    return Adapter(
        path, _scale(parameters, scale), _num_layers(config), _keys(parameters.get("keys")), factors
    )


def _require_lora(config: Mapping[str, Any]) -> None:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora" or config.get("use_dora"):
        name = {"dora": "DoRA", "full": "full fine-tuning"}.get(str(kind), str(kind)[:40])
        name = "DoRA" if kind == "lora" else name
        raise FusionUnsupportedError(
            f"adapters of the kind {name} cannot be fused by this version, LoRA only"
        )


def _scale(parameters: Mapping[str, Any], override: float | None) -> float:
    scale = override if override is not None else parameters.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        reason = "has no scale" if scale is None else f"has the scale {str(scale)[:40]!r}"
        alpha = "alpha" in parameters and scale is None
        raise FusionUnsupportedError(
            f"the adapter's configuration {reason}" + (", alpha is something else in mlx-lm" if alpha else "")
        )
    return float(scale)


def _num_layers(config: Mapping[str, Any]) -> int:
    number = config.get("num_layers")
    if type(number) is not int:
        raise FusionUnsupportedError(
            "the adapter's configuration has no num_layers; mlx-lm before 0.19 wrote it so and cannot fuse it either"
        )
    return number


def _keys(keys: Any) -> tuple[str, ...] | None:
    if keys is None:
        return None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FusionUnsupportedError("the keys in the adapter's configuration are not a list of paths")
    return tuple(keys)


def _read_factors(path: Path) -> dict[str, Factors]:
    header = read_header(path)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            kind = "DoRA, which this version cannot fuse" if name.endswith(".m") else "not a LoRA tensor"
            raise FusionUnsupportedError(f"the adapter's tensor {name!r} is {kind}")
        if tensor.dtype not in FORMATS:
            raise FusionUnsupportedError(
                f"the adapter's tensor {name!r} is {tensor.dtype}, not a float format"
            )
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    return {module: _pair(module, found) for module, found in parts.items()}


def _pair(module: str, found: Mapping[str, Tensor]) -> Factors:
    if len(found) < 2:
        raise FusionUnsupportedError(f"the adapter holds only {next(iter(found))} of {module}")
    pair = Factors(found["lora_a"], found["lora_b"])
    if len(pair.a.shape) == 3:
        raise FusionUnsupportedError(
            f"{module} is a switch layer (mixture of experts), which this version cannot fuse"
        )
    flat = len(pair.a.shape) == len(pair.b.shape) == 2 and 0 not in pair.a.shape + pair.b.shape
    if not flat or pair.a.shape[1] != pair.b.shape[0]:
        raise FusionUnsupportedError(
            f"the adapter's tensors for {module} do not multiply: {pair.a.shape}, {pair.b.shape}"
        )
    return pair
