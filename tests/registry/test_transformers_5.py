"""Bases that transformers 5 saved: what mlx computes of them, fused or not, is what transformers computes.

Each architecture is made small and random by transformers itself, with rotary embeddings that are nobody's default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import adapters_by_class
import numpy as np
import pytest
import tiny_models
from peft_folders import real_peft

from fusery.integrations.common import transformers_reads
from fusery.integrations.gguf.family import FAMILIES, dimensions_of
from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.models.architecture import read_architecture
from fusery.registry.models.libraries import ignored_window
from fusery.registry.records.bases import base_folder
from fusery.registry.runtime.mlx_keys import written_config
from fusery.storage.jsonfile import read_object

pytest.importorskip("mlx_lm")

GELU = 1e-3
"""These classes of mlx-lm compute the exact GELU where transformers computes its approximation by tanh."""
EXACT = [
    "afmoe", "apertus", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "ernie4_5",
    "ernie4_5_moe", "exaone4", "exaone_moe", "falcon_h1", "falcon_mamba", "gemma2", "gemma3", "gemma3_text",
    "gemma4", "gemma4_text", "glm4", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "gptj", "granite",
    "granitemoe", "helium", "hunyuan_v1_dense", "internlm3", "iquestcoder", "laguna", "lfm2", "lfm2_moe",
    "llama", "llava", "mamba", "mamba2", "mellum", "minimax_m2", "ministral3", "mistral", "mistral3",
    "mistral4", "mixtral", "nemotron", "olmo2", "olmo3", "olmoe", "phi", "phi3", "phimoe", "qwen2",
    "qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_5", "qwen3_moe", "qwen3_next", "qwen3_vl",
    "seed_oss", "smollm3", "solar_open", "stablelm",
]  # fmt: skip
COMPUTED = dict.fromkeys(EXACT, 1e-4) | {
    "gemma": GELU,
    "gpt_bigcode": GELU,
    "gpt_neox": GELU,
    "starcoder2": GELU,
}
"""How far apart mlx and transformers may be, relative to the largest logit, by `model_type`."""
QUICK = ("cohere2", "gemma3_text", "gpt_neox", "llama", "mixtral", "phi3", "qwen2", "qwen2_vl", "qwen3_moe")


def some_tokens(folder: Path) -> tuple[np.ndarray[Any, Any], Path]:
    """Return a few token ids, and a file of them."""
    folder.mkdir(exist_ok=True, parents=True)
    tokens = np.random.default_rng(1).integers(3, 300, (1, 24))
    np.save(folder / "tokens.npy", tokens)
    return tokens, folder / "tokens.npy"


def of_transformers(model: Path, scratch: Path) -> np.ndarray[Any, Any]:
    """Return the logits that transformers computes."""
    real_peft("scores", model, some_tokens(scratch)[1], scratch / "logits.npy")
    found: np.ndarray[Any, Any] = np.load(scratch / "logits.npy")
    return found[0]


def of_mlx(model: Path, scratch: Path, adapter: Path | None = None) -> np.ndarray[Any, Any]:
    """Return the logits that mlx-lm's class computes in float32, as a probe does."""
    from fusery.research.models import LoadedModel

    loaded = LoadedModel.load(model, numpy=False)
    if adapter is not None:
        loaded.put_on(adapter)
    return loaded.run(some_tokens(scratch)[0].astype(np.int32))


def apart(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return the largest difference, relative to the largest logit."""
    return float(np.abs(one[:, : other.shape[1]] - other).max() / np.abs(other).max())


def make(kind: str, folder: Path, scaling: dict[str, Any] | None = None) -> Path:
    """Let transformers save a small random model."""
    real_peft("tiny", kind, json.dumps(scaling), folder)
    return folder


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in COMPUTED]
)
def test_mlx_computes_what_transformers_computes(
    kind: str, module_registry: Registry, tmp_path: Path
) -> None:
    base = make(kind, tmp_path / kind)
    before = (base / "config.json").read_bytes()
    added = module_registry.bases.add(base, name=kind)
    assert (base / "config.json").read_bytes() == before
    assert not {finding.code for finding in added.findings} & {"base_not_loaded", "base_keys_lost"}
    with base_folder(module_registry.workspace, kind) as folder:
        assert apart(of_mlx(folder, tmp_path), of_transformers(base, tmp_path)) < COMPUTED[kind]
        adapter = adapters_by_class.make_adapter(tmp_path / "adapter", folder, rank=2, scale=2.0, update=0.3)
        expected = of_mlx(folder, tmp_path, adapter)
    module_registry.adapters.register(adapter, base=kind, task=kind.replace("_", "-"))
    fused = module_registry.fused.fuse(f"{kind.replace('_', '-')}@1", FuseRequest("keep", accept_loss=True))
    assert apart(of_mlx(fused.path, tmp_path), expected) < 1e-4
    rotary = real_peft("rotary", base)
    assert real_peft("rotary", fused.path) == rotary
    config, own = read_object(fused.path / "config.json"), read_object(base / "config.json")
    assert ("mlx-keys" in fused["engine"]) is (written_config(own) != own)
    assert written_config(config) == config
    assert config.get("torch_dtype") == own.get("dtype")
    flat = json.loads(rotary[0]) if len(rotary) == 1 else {}
    if kind != "gpt_neox" and "rope_theta" in own.get("rope_parameters", {}):
        assert config["rope_theta"] == flat["rope_theta"]
    if kind in FAMILIES and ignored_window(config) is None:
        assert dimensions_of(config).theta == json.loads(rotary[0])["rope_theta"]
    sees = bool(own.get("vision_config"))
    if sees:
        assert tiny_models.read_tensors(fused.path).keys() == tiny_models.read_tensors(base).keys()
        assert config["vision_config"]
    if sees or transformers_reads(read_architecture(fused.path)):
        assert apart(of_transformers(fused.path, tmp_path), expected) < COMPUTED[kind]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ],
    ids=lambda scaling: scaling["rope_type"],
)  # fmt: skip
def test_scaled_rotary_embeddings(
    kind: str, scaling: dict[str, Any], module_registry: Registry, tmp_path: Path
) -> None:
    name = f"{kind}-{scaling['rope_type']}"
    base = make(kind, tmp_path / name, scaling)
    module_registry.bases.add(base, name=name)
    expected = of_transformers(base, tmp_path)
    with base_folder(module_registry.workspace, name) as folder:
        assert apart(of_mlx(folder, tmp_path), expected) < 1e-4
    if kind != "qwen3":
        assert apart(of_mlx(base, tmp_path), expected) > 1e-3, "mlx-lm by itself"


def test_a_scaling_that_the_class_has_no_place_for(module_registry: Registry, tmp_path: Path) -> None:
    base = make("mixtral", tmp_path / "scaled", {"rope_type": "linear", "factor": 4.0})
    findings = {finding.code: finding for finding in module_registry.bases.add(base, name="scaled").findings}
    assert "rope_scaling" in findings["base_keys_lost"].message
    assert "rope_theta (1777.0 instead of 1000000.0)" in findings["base_keys_added"].message
    minimax = module_registry.bases.add(make("minimax", tmp_path / "minimax"), name="minimax")
    assert "base_not_loaded" in {finding.code for finding in minimax.findings}


def test_findings_of_a_base_and_its_adapters(module_registry: Registry, tmp_path: Path) -> None:
    (finding,) = module_registry.bases.add(make("llama", tmp_path / "said"), name="said").findings
    assert (finding.code, finding.severity, finding.subject) == ("base_keys_added", "warning", "config.json")
    assert "rope_theta (787.0 instead of 10000)" in finding.message
    adapter = tiny_models.make_adapter(tmp_path / "adapter", tmp_path / "said")
    found = {each.code for each in module_registry.adapters.check(adapter, base="said")}
    assert "trained_on_defaults" in found


def test_a_base_that_mlx_lm_reads_has_nothing_said_of_it_and_keeps_its_engine(
    module_registry: Registry, tmp_path: Path
) -> None:
    base = tiny_models.make_base(tmp_path / "base", layers=2)
    assert module_registry.bases.add(base, name="of-old").findings == ()
    module_registry.adapters.register(
        tiny_models.make_adapter(tmp_path / "adapter", base), base="of-old", task="of-old"
    )
    assert (
        module_registry.fused.fuse("of-old@1", FuseRequest("keep", accept_loss=True))["engine"]
        == "canonical-1"
    )
