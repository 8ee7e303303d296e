"""The part of an adapter that a fuse is made from: which modules it changes, with which factors and which scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

from ..errors import FusionUnsupportedError
from .arithmetic import FORMATS

LORA, DORA, FULL = "lora", "dora", "full"
_KINDS = (LORA, DORA, FULL)
_NAMES = {LORA: "LoRA", DORA: "DoRA", FULL: "full fine-tuning"}
_FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors of one module.

    Attributes:
        a: `lora_a`: (in, rank) of a linear layer, (rows, rank) of an embedding, (experts, rank, in) of a switch layer.
        b: `lora_b`: (rank, out), (rank, columns), or (experts, out, rank).
        m: DoRA's magnitudes, one for each row of the weight; None for LoRA.
    """

    a: Tensor
    b: Tensor
    m: Tensor | None = None

    @property
    def switch(self) -> bool:
        """Whether there is one pair for each expert."""
        return len(self.a.shape) == 3

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return self.a.shape[1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as mlx-lm's trainer writes it.

    Attributes:
        path: its safetensors file.
        kind: `lora`, `dora` or `full`.
        scale: factor of every update.
        num_layers: how many blocks from the end it was trained on; 0 and less is all of them.
        keys: paths of the adapted modules within a block or from the model's root; None for every linear layer.
        factors: by module path; none of a full fine-tune.
        tensors: of a full fine-tune, by the name of the base's tensor that each replaces.
    """

    path: Path
    kind: str
    scale: float
    num_layers: int
    keys: tuple[str, ...] | None
    factors: Mapping[str, Factors]
    tensors: Mapping[str, Tensor]


def read_adapter(path: Path, config: Mapping[str, Any], scale: float | None = None) -> Adapter:
    """Read an adapter's configuration and the header of its tensors.

    Args:
        path: `adapters.safetensors`.
        config: the parsed `adapter_config.json`.
        scale: instead of the scale in the configuration.

    Raises:
        FusionUnsupportedError: it is not an adapter that mlx-lm could load, or contradicts itself.
        FormatError: the file is malformed.
        MissingFileError: it cannot be read.
    """
    kind = _kind(config)
    if kind == FULL:
        if scale is not None:
            raise FusionUnsupportedError("the result of full fine-tuning has no scale to override")
        return Adapter(path, kind, 1.0, 0, None, {}, read_header(path, limit=BASE_HEADER_LIMIT).tensors)
    parameters = config.get("lora_parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    factors = _read_factors(path, kind)
    rank = parameters.get("rank")
    for module, pair in factors.items():
        if rank is not None and pair.rank != rank:
            raise FusionUnsupportedError(
                f"the adapter's tensors for {module} have rank {pair.rank}, its configuration says {rank!r}"
            )
    return Adapter(
        path, kind, _scale(parameters, scale), _num_layers(config), _keys(parameters.get("keys")), factors, {}
    )


def require_linear(adapters: Sequence[tuple[Adapter, float]], *, whole: bool, scaled: bool) -> None:
    """Refuse a sum of what cannot be added.

    Args:
        adapters: each with its weight.
        whole: the first replaces tensors of the base, too.
        scaled: another scale than its own was asked for.

    Raises:
        FusionUnsupportedError: their effect is not a sum.
    """
    kinds = {adapter.kind for adapter, _ in adapters}
    weighted = len(adapters) > 1 or adapters[0][1] != 1.0
    other = kinds & {DORA, FULL}
    if other and weighted:
        name = "DoRA adapters" if DORA in other else "results of full fine-tuning"
        raise FusionUnsupportedError(f"{name} cannot be weighted or combined: their effect is not a sum")
    if whole and (weighted or scaled):
        raise FusionUnsupportedError(
            "an adapter with whole tensors cannot be scaled, weighted or combined: they replace the base's",
            hint="fuse it as it is",
        )


def _kind(config: Mapping[str, Any]) -> str:
    kind = config.get("fine_tune_type", LORA)
    if kind not in _KINDS:
        raise FusionUnsupportedError(f"there is no kind of adapter {str(kind)[:40]!r} in mlx-lm")
    if kind == LORA and config.get("use_dora"):
        raise FusionUnsupportedError(
            "the adapter's configuration says use_dora, which mlx-lm before 0.19 wrote and mlx-lm today passes over",
            hint='replace it in adapter_config.json by "fine_tune_type": "dora"',
        )
    return str(kind)


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


def _read_factors(path: Path, kind: str) -> dict[str, Factors]:
    header = read_header(path)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or (match["part"] == "m" and kind == LORA):
            raise FusionUnsupportedError(f"the adapter's tensor {name!r} is not a {_NAMES[kind]} tensor")
        if tensor.dtype not in FORMATS:
            raise FusionUnsupportedError(
                f"the adapter's tensor {name!r} is {tensor.dtype}, not a float format"
            )
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    return {module: _pair(module, found, kind) for module, found in parts.items()}


def _pair(module: str, found: Mapping[str, Tensor], kind: str) -> Factors:
    needed = {"lora_a", "lora_b"} | ({"m"} if kind == DORA else set())
    if missing := sorted(needed - found.keys()):
        raise FusionUnsupportedError(f"the adapter holds no {missing[0]} of {module}")
    pair = Factors(found["lora_a"], found["lora_b"], found.get("m"))
    if kind == DORA and pair.switch:
        raise FusionUnsupportedError(
            f"{module} is a switch layer (experts), which DoRA does not adapt in mlx-lm"
        )
    if not _multiply(pair) or 0 in pair.a.shape + pair.b.shape:
        raise FusionUnsupportedError(
            f"the adapter's tensors for {module} do not multiply: {pair.a.shape}, {pair.b.shape}"
        )
    return pair


def _multiply(pair: Factors) -> bool:
    if pair.switch and len(pair.b.shape) == 3:
        return pair.a.shape[0] == pair.b.shape[0] and pair.a.shape[1] == pair.b.shape[2]
    return len(pair.a.shape) == len(pair.b.shape) == 2 and pair.a.shape[1] == pair.b.shape[0]
