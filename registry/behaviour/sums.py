"""The sum of several adapters as one: their factors side by side, which is their sum exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusery.storage.jsonfile import read_object

from ..adapters.files import CONFIG, WEIGHTS
from ..errors import ModelUnusableError

Weighted = tuple[Path, float]
"""A folder with `adapters.safetensors` and `adapter_config.json` in mlx-lm's form, and how often it is added."""


def write_sum(adapters: Sequence[Weighted], folder: Path) -> Path:
    """Write an adapter that is the sum of several, and return its folder.

    Args:
        adapters: LoRA, on one base.
        folder: an empty one.

    Raises:
        ModelUnusableError: one of them is no LoRA, and has no factors alone to add.
    """
    import mlx.core as mx

    parts = [_scaled(adapter, weight) for adapter, weight in adapters]
    modules = sorted({path for part in parts for path in part})
    ranks = [max(_rank(*factors) for factors in part.values()) for part in parts]
    tensors = {}
    for path in modules:
        known = next(part[path] for part in parts if path in part)
        a, b = zip(
            *(
                _padded(*part[path], rank) if path in part else _nothing(*known, rank)
                for part, rank in zip(parts, ranks, strict=True)
            ),
            strict=True,
        )
        experts = known[0].ndim == 3
        tensors[f"{path}.lora_a"] = mx.concatenate(list(a), axis=1)
        tensors[f"{path}.lora_b"] = mx.concatenate(list(b), axis=2 if experts else 0)
    mx.save_safetensors(str(folder / WEIGHTS), tensors)
    parameters = {"rank": sum(ranks), "scale": 1.0, "dropout": 0.0, "keys": modules}
    config = {"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": parameters}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


def _scaled(adapter: Path, weight: float) -> dict[str, tuple[Any, Any]]:
    """Return the factors by module, `lora_b` times scale and weight, in float32."""
    import mlx.core as mx

    config = read_object(adapter / CONFIG)
    parameters = config.get("lora_parameters")
    if config.get("fine_tune_type", "lora") != "lora" or not isinstance(parameters, Mapping):
        raise ModelUnusableError("only LoRA adapters can be added up, since others have more than factors")
    tensors = mx.load(str(adapter / WEIGHTS))
    assert isinstance(tensors, dict)
    times = weight * float(parameters.get("scale", 1.0))
    paths = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    return {
        path: (
            tensors[f"{path}.lora_a"].astype(mx.float32),
            times * tensors[f"{path}.lora_b"].astype(mx.float32),
        )
        for path in paths
    }


def _rank(a: Any, b: Any) -> int:
    return int(a.shape[1] if a.ndim == 3 else b.shape[0])


def _padded(a: Any, b: Any, rank: int) -> tuple[Any, Any]:
    """Return factors with zeros up to a rank, since mlx-lm has one for all modules."""
    import mlx.core as mx

    more = (0, rank - _rank(a, b))
    if a.ndim == 3:
        return mx.pad(a, [(0, 0), more, (0, 0)]), mx.pad(b, [(0, 0), (0, 0), more])
    return mx.pad(a, [(0, 0), more]), mx.pad(b, [more, (0, 0)])


def _nothing(a: Any, b: Any, rank: int) -> tuple[Any, Any]:
    """Return factors of zeros for a module that an adapter leaves alone, as large as another's."""
    import mlx.core as mx

    if a.ndim == 3:
        return mx.zeros((a.shape[0], rank, a.shape[2])), mx.zeros((*b.shape[:2], rank))
    return mx.zeros((a.shape[0], rank)), mx.zeros((rank, b.shape[1]))
