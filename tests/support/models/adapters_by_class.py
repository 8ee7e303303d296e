"""Adapters for any base that mlx-lm can load, made by mlx-lm's own classes and saved as its trainer saves them.

`make_adapter` of `tiny_models` knows four architectures and needs no mlx; this one asks the model which modules it has.
Needs mlx-lm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["lora", "dora", "full"]


def make_adapter(
    folder: Path,
    base: Path,
    *,
    kind: Kind = "lora",
    rank: int = 8,
    scale: float = 20.0,
    num_layers: int = -1,
    keys: Sequence[str] | None = None,
    dtype: str = "float32",
    skip: Iterable[str] = (),
    seed: int = 0,
    update: float = 0.05,
) -> Path:
    import mlx.core as mx
    from mlx_lm.lora import CONFIG_DEFAULTS
    from mlx_lm.utils import save_config

    parameters: dict[str, Any] = {"rank": rank, "dropout": 0.0, "scale": scale}
    if keys is not None:
        parameters["keys"] = list(keys)
    model = load_lazily(base)
    model.freeze()
    if kind == "full":
        tensors = _tuned(model, num_layers, seed, update)
    else:
        tensors = _factors(model, num_layers, parameters, kind, getattr(mx, dtype), seed, update)
    left_out = set(skip)
    if strangers := left_out - {name.rpartition(".")[0] for name in tensors}:
        raise ValueError(f"not adapted: {sorted(strangers)}")
    kept = {name: value for name, value in tensors.items() if name.rpartition(".")[0] not in left_out}
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), kept)
    arguments = CONFIG_DEFAULTS | {
        "model": str(base), "train": True, "fine_tune_type": kind, "num_layers": num_layers,
        "adapter_path": str(folder), "lora_parameters": None if kind == "full" else parameters,
    }  # fmt: skip
    save_config(arguments, folder / "adapter_config.json")
    return folder


def load_lazily(base: Path) -> Any:
    from mlx_lm.utils import load_model

    return load_model(base, lazy=True)[0]


def paths_of(base: Path, kind: Literal["linear", "embedding", "switch"]) -> list[str]:
    """Return the paths of a base's modules of a kind, quantised or not, in the model's order."""
    from mlx import nn
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    classes = {
        "linear": (nn.Linear, nn.QuantizedLinear),
        "embedding": (nn.Embedding, nn.QuantizedEmbedding),
        "switch": (SwitchLinear, QuantizedSwitchLinear),
    }[kind]
    return [path for path, module in load_lazily(base).named_modules() if isinstance(module, classes)]


def within_block(path: str) -> str:
    """Return the path of a module relative to its block; a path outside of the blocks as it is."""
    parts = path.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdecimal()), -1)
    return ".".join(parts[number + 1 :])


def _factors(
    model: Any, num_layers: int, parameters: dict[str, Any], kind: Kind, dtype: Any, seed: int, update: float
) -> dict[str, Any]:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    linear_to_lora_layers(model, num_layers, parameters, use_dora=kind == "dora")
    random = np.random.default_rng(seed + 1000)
    spread = update * math.sqrt(3) / (parameters["scale"] * math.sqrt(parameters["rank"]))
    found = {}
    for name, value in sorted(tree_flatten(model.trainable_parameters())):
        part = name.rpartition(".")[2]
        if part == "lora_a":
            drawn = random.uniform(-1, 1, value.shape) / math.sqrt(max(value.shape))
        elif part == "lora_b":
            drawn = random.standard_normal(value.shape) * spread
        else:  # DoRA's magnitudes start as the norms of the rows
            drawn = np.array(value.astype(mx.float32)) * random.uniform(0.9, 1.1, value.shape)
        form = mx.float32 if part == "m" else dtype
        found[name] = mx.array(drawn.astype(np.float32)).astype(form)
    return found


def _tuned(model: Any, num_layers: int, seed: int, update: float) -> dict[str, Any]:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    for layer in model.layers[-max(num_layers, 0) :]:
        layer.unfreeze()
    random = np.random.default_rng(seed + 2000)
    found = {}
    for name, value in sorted(tree_flatten(model.trainable_parameters())):
        change = random.standard_normal(value.shape, dtype=np.float32) * np.float32(update / 8)
        found[name] = (value.astype(mx.float32) + mx.array(change)).astype(value.dtype)
    return found
