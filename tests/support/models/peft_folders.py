"""Adapters in PEFT's form, as `save_pretrained` writes them, and the real PEFT.

`PEFT_PYTHON` names an interpreter with torch, transformers and peft (requirements/peft.txt); `make test` sets it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import json_peers
import numpy as np
import pytest
import tensor_files
import tiny_models

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

Logits = np.ndarray[Any, Any]


def tokens(folder: Path) -> Path:
    np.save(folder / "tokens.npy", np.random.default_rng(1).integers(3, 300, (1, 24)))
    return folder / "tokens.npy"


def by_peft(base: Path, adapter: Path, scratch: Path) -> Logits:
    real_peft("logits", base, adapter, tokens(scratch), scratch / "logits.npy")
    found: Logits = np.load(scratch / "logits.npy")
    return found[0]


def by_mlx(model: Path, scratch: Path) -> Logits:
    from fusery.research.models import LoadedModel

    return LoadedModel.load(model, numpy=False).run(np.load(tokens(scratch)).astype(np.int32))


def apart(one: Logits, other: Logits) -> float:
    return float(np.abs(one[:, : other.shape[1]] - other).max() / np.abs(other).max())


def fused(registry: Registry, reference: str) -> Path:
    return Path(registry.fused.fuse(reference, FuseRequest("keep", accept_loss=True))["path"])


ROOT = Path(__file__).resolve().parents[3]
REAL = Path(__file__).resolve().parents[2] / "data" / "peft"
"""Adapters that PEFT itself trained, on SmolLM2-135M-Instruct."""

PREFIX = "base_model.model."


def make_peft(
    folder: Path,
    base: Path,
    *,
    modules: Sequence[str] = ("q_proj", "v_proj"),
    layers: Sequence[int] | None = None,
    rank: int = 4,
    ranks: Mapping[str, int] | None = None,
    dtype: tiny_models.FloatType = "float32",
    dora: bool = False,
    seed: int = 0,
    **config: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads((base / "config.json").read_text())
    random = np.random.default_rng(seed)
    wanted = range(settings["num_hidden_layers"]) if layers is None else layers
    names = [name for name in tiny_models.LINEAR if name.rpartition(".")[2] in modules]
    tensors: dict[str, tiny_models.Raw] = {}
    for path in [f"model.layers.{index}.{name}" for index in wanted for name in names]:
        out, into = tiny_models._module_shape(settings, path)
        own = (ranks or {}).get(path, rank)
        a = random.standard_normal((own, into)).astype(np.float32) / math.sqrt(into)
        b = random.standard_normal((out, own)).astype(np.float32) * 0.02
        kind = tiny_models._DTYPES[dtype]
        tensors[f"{PREFIX}{path}.lora_A.weight"] = (kind, tiny_models.encode(a, dtype))
        tensors[f"{PREFIX}{path}.lora_B.weight"] = (kind, tiny_models.encode(b, dtype))
        if dora:
            magnitude = random.uniform(0.9, 1.1, out).astype(np.float32)
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = ("F32", magnitude)
    tiny_models.write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    document = {
        "alpha_pattern": {}, "base_model_name_or_path": base.name, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
        "layers_to_transform": None if layers is None else list(layers), "lora_alpha": 8, "lora_dropout": 0.0,
        "modules_to_save": None, "peft_type": "LORA", "r": rank, "rank_pattern": dict(ranks or {}),
        "target_modules": list(modules), "task_type": "CAUSAL_LM", "use_dora": dora, "use_rslora": False,
    }  # fmt: skip
    edit_config(folder, **{**document, **config})
    return folder


def make_experts(
    folder: Path,
    base: Path,
    *,
    parameters: Sequence[str] = ("gate_up_proj", "down_proj"),
    rank: int = 2,
    turned: bool = False,
    seed: int = 0,
    **config: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    said = json.loads((base / "config.json").read_text())
    outer, experts = said["hidden_size"], said.get("num_experts") or said["num_local_experts"]
    inner = said.get("moe_intermediate_size") or said["intermediate_size"]
    sides = {"gate_up_proj": (2 * inner, outer), "down_proj": (outer, inner)}
    random = np.random.default_rng(seed)
    tensors: dict[str, tiny_models.Raw] = {}
    for layer in range(said["num_hidden_layers"]):
        for depth, name in enumerate(reversed(parameters)):
            rows, columns = sides[name]
            a = random.standard_normal((experts, rank, columns)).astype(np.float32)
            b = random.standard_normal((rows, rank, experts)).astype(np.float32) * 0.02
            if turned:
                a, b = b.transpose(2, 1, 0), a.transpose(2, 1, 0)
            place = f"{PREFIX}model.layers.{layer}.mlp.experts{'.base_layer' * depth}"
            tensors[f"{place}.lora_A.weight"] = ("F32", np.ascontiguousarray(a.reshape(-1, a.shape[-1])))
            tensors[f"{place}.lora_B.weight"] = ("F32", np.ascontiguousarray(b.reshape(len(b), -1)))
    tiny_models.write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    document = {
        "base_model_name_or_path": base.name, "lora_alpha": 4, "peft_type": "LORA", "peft_version": "0.21.2",
        "r": rank, "target_modules": [], "target_parameters": [f"mlp.experts.{name}" for name in parameters],
    }  # fmt: skip
    edit_config(folder, **{**document, **config})
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **changes}, indent=2), encoding="utf-8")


def edit_tensors(folder: Path, change: Callable[[dict[str, tiny_models.Raw]], object]) -> None:
    tensor_files.rewrite(folder, change, "pt")


def numbers(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor_files.numbers(path, name) for name in tiny_models.read_tensors(path)}


def peers_python() -> Path:
    """Return the interpreter with other libraries in it; skip where there is none."""
    given = os.environ.get("PEFT_PYTHON")
    python = ROOT / (given or ".venv-peft/bin/python")
    if not python.exists():
        message = f"needs PEFT and llama.cpp: there is no {python}; run: make .venv-peft/.peers"
        if given:
            pytest.fail(message)
        pytest.skip(message)
    return python


def real_peft(*request: str | Path) -> Any:
    """Ask the real PEFT, through `peft_peer.py`, and return its answer; skip where there is none."""
    return json_peers.ask(peers_python(), "peft_peer.py", *map(str, request))
