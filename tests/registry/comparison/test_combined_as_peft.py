"""Against the real PEFT: the same adapter comes out of `add_weighted_adapter`, to 1e-5 in float32."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from peft_folders import make_peft, real_peft
from tensor_files import load_raw

from fusery.registry import Registry
from fusery.registry.comparison.combine import Combination

# Importing torch takes seconds, and PEFT is asked by every test.
pytestmark = pytest.mark.slow
Array = np.ndarray[Any, Any]
Factors = dict[str, tuple[Array, Array]]
"""A and B of each module, as mlx-lm has them."""

WEIGHTS = (0.7, -0.4, 1.3)
# rsLoRA, another alpha and a pattern of alphas: what PEFT calls scaling is not 1 and not the same everywhere.
CONFIGS: tuple[dict[str, Any], ...] = (
    {"lora_alpha": 16},
    {"use_rslora": True, "lora_alpha": 6},
    {"alpha_pattern": {"v_proj": 5}},
)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "ties": ("ties", {"density": 0.3}),
    "svd": ("svd", {}),
    "svd of rank 3": ("svd", {"svd_rank": 3}),
    "cat": ("cat", {}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny", dtype="float32", layout="hf")


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters, of which the last one has a module that the others lack, and lacks one that they have."""
    place = tmp_path_factory.mktemp("adapters")
    modules = (("q_proj", "v_proj"), ("q_proj", "v_proj"), ("v_proj", "up_proj"))
    return [
        make_peft(place / str(number), base, modules=names, seed=number, **config)
        for number, (names, config) in enumerate(zip(modules, CONFIGS, strict=True))
    ]


@pytest.fixture(scope="module")
def filled(module_registry: Registry, base: Path, folders: list[Path]) -> Registry:
    module_registry.bases.add(base, name="tiny")
    for folder in folders:
        module_registry.adapters.register(folder, base="tiny", task="part")
    return module_registry


def theirs(base: Path, folders: list[Path], asked: dict[str, Any], out: Path) -> Factors:
    adapters = json.dumps([str(folder) for folder in folders])
    real_peft("combine", base, adapters, json.dumps({"weights": WEIGHTS, **asked}), out)
    tensors = read(out / "new" / "adapter_model.safetensors")
    config = json.loads((out / "new" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert not config["use_rslora"] or asked["combination_type"]  # the first adapter's, which has none
    paths = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in tensors}
    return {
        path: (
            tensors[f"base_model.model.{path}.lora_A.weight"].T,
            tensors[f"base_model.model.{path}.lora_B.weight"].T,
        )
        for path in paths
    }


def read(path: Path) -> dict[str, Array]:
    return {name: value for name, (_, value) in load_raw(path).items()}


def ours(registry: Registry, made: Combination) -> Factors:
    assert made.name is not None
    tensors = read(registry.adapters.folder(made.name) / "adapters.safetensors")
    paths = {name.partition(".lora_")[0] for name in tensors}
    return {path: (tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"]) for path in paths}


@pytest.mark.parametrize("case", CASES)
def test_same_as_peft(filled: Registry, base: Path, folders: list[Path], tmp_path: Path, case: str) -> None:
    kind, options = CASES[case]
    made = filled.adapters.combine(
        ["part@1", "part@2", "part@3"],
        method=kind,
        weights=WEIGHTS,
        density=options.get("density"),
        rank=options.get("svd_rank"),
        task=f"whole_{len(case)}_{kind}",
    )
    peft = theirs(base, folders, {"combination_type": kind, **options}, tmp_path / "out")
    mine = ours(filled, made)
    assert mine.keys() == peft.keys()
    assert made.modules == len(mine) == 12
    for path, (a, b) in mine.items():
        their_a, their_b = peft[path]
        if kind in ("linear", "ties"):
            assert np.abs(a - their_a).max() < 1e-5
            assert np.abs(b - their_b).max() < 1e-5
        product, expected = a.astype(np.float64) @ b, their_a.astype(np.float64) @ their_b
        assert np.abs(product - expected).max() < 1e-5
        assert np.abs(expected).max() > 1e-3
    if kind in ("svd", "cat"):
        assert made.retained is not None
        assert math.isclose(made.retained, 1.0) == (kind == "cat")
