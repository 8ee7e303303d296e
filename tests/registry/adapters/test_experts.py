"""Experts that PEFT adapts as one parameter, and mlx-lm's switch layers: computed by both libraries, on models of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import adapters_by_class
import numpy as np
import pytest
import tiny_models
from peft_folders import numbers, real_peft

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.models.experts import LAYOUTS
from fusery.registry.records.base_files import base_folder
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace

pytest.importorskip("mlx_lm")

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
ADAPTERS: Mapping[str, dict[str, Any]] = {
    "both": {"target_parameters": EXPERTS, "target_modules": []},
    "gate_up": {"target_parameters": EXPERTS[:1], "target_modules": []},
    "down": {"target_parameters": EXPERTS[1:], "target_modules": []},
    "mixed": {
        "target_parameters": EXPERTS,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"down_proj": 2, "experts.gate_up_proj": 8},
        "alpha_pattern": {"v_proj": 3},
        "use_rslora": True,
    },
}
"""Fields of what is trained."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    settings = Settings(
        home=tmp_path_factory.mktemp("experts") / "home",
        database_url="",
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="tester",
    )
    with Registry(Workspace(settings)) as opened:
        opened.init()
        yield opened


@pytest.fixture(scope="module")
def bases(shared: Registry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the folder of a model of one class, which is made and added once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            # mlx-lm's YaRN truncates, which transformers does unless it is told otherwise, as gpt_oss is.
            scaling = {"truncate": True} if kind == "gpt_oss" else None
            real_peft("tiny", kind, json.dumps(scaling), made[kind])
            ours = in_mlx_layout(made[kind], made[kind] / "mlx") if kind == "gpt_oss" else made[kind]
            shared.bases.add(ours, name=kind)
        return made[kind]

    return get


def trained(base: Path, out: Path, **fields: Any) -> Path:
    """Train an adapter with PEFT."""
    real_peft("train", base, json.dumps({"r": 4, "lora_alpha": 16, **fields}), out)
    return out


def tokens(folder: Path) -> Path:
    np.save(folder / "tokens.npy", np.random.default_rng(1).integers(3, 300, (1, 24)))
    return folder / "tokens.npy"


def by_peft(base: Path, adapter: Path, scratch: Path) -> np.ndarray[Any, Any]:
    """Return the logits of PEFT's own forward with the adapter on its base."""
    real_peft("logits", base, adapter, tokens(scratch), scratch / "logits.npy")
    found: np.ndarray[Any, Any] = np.load(scratch / "logits.npy")
    return found[0]


def by_mlx(model: Path, scratch: Path) -> np.ndarray[Any, Any]:
    """Return the logits of mlx-lm's class in float32."""
    from fusery.registry.behaviour.models import Model

    return Model.load(model, numpy=False).run(np.load(tokens(scratch)).astype(np.int32))


def apart(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one[:, : other.shape[1]] - other).max() / np.abs(other).max())


def fused(shared: Registry, reference: str) -> Path:
    return Path(shared.fused.fuse(reference, FuseRequest("keep", accept_loss=True))["path"])


def in_mlx_layout(model: Path, folder: Path) -> Path:
    """Write a gpt_oss of transformers as mlx-lm has it, which loads such a model from its 4-bit blocks only."""
    tensors = {}
    for name, value in numbers(model / "model.safetensors").items():
        stem, _, part = name.rpartition(".")
        if part in ("gate_up_proj", "gate_up_proj_bias"):
            rows = value.swapaxes(1, 2) if value.ndim == 3 else value
            kind = "bias" if part.endswith("bias") else "weight"
            tensors[f"{stem}.gate_proj.{kind}"] = rows[:, ::2]
            tensors[f"{stem}.up_proj.{kind}"] = rows[:, 1::2]
        elif part == "down_proj":
            tensors[f"{stem}.down_proj.weight"] = value.swapaxes(1, 2)
        elif part == "down_proj_bias":
            tensors[f"{stem}.down_proj.bias"] = value
        else:
            tensors[name] = value
    folder.mkdir()
    stored = {name: ("F32", np.ascontiguousarray(value, np.float32)) for name, value in tensors.items()}
    tiny_models.write_tensors(folder / "model.safetensors", stored, {"format": "mlx"})
    shutil.copyfile(model / "config.json", folder / "config.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_a_fused_model_answers_as_peft_does(kind: str, shared: Registry, bases: Any, tmp_path: Path) -> None:
    base = bases(kind)
    adapter = trained(base, tmp_path / "adapter", **ADAPTERS["mixed"])
    expected = by_peft(base, adapter, tmp_path)
    added = shared.adapters.register(adapter, base=kind, task=f"{kind}-mixed")
    found = by_mlx(fused(shared, added.name), tmp_path)
    assert apart(found, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_peft_answers_as_a_fused_model_does(kind: str, shared: Registry, bases: Any, tmp_path: Path) -> None:
    """Of an adapter that has all that mlx-lm's trainer adapts when nothing is said."""
    base = bases(kind)
    with base_folder(shared.workspace, kind) as folder:
        adapter = adapters_by_class.make_adapter(tmp_path / "adapter", folder, rank=2, scale=2.0, update=0.3)
    added = shared.adapters.register(adapter, base=kind, task=f"{kind}-mlx")
    out = shared.exchange.export(added.name, tmp_path / "out", form="peft").path
    found = by_mlx(fused(shared, added.name), tmp_path)
    assert apart(found, by_peft(base, Path(out), tmp_path)) < 1e-4
