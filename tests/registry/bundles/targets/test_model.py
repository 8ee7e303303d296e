"""The targets `model` and `hub`: transformers and mlx-lm load a mixture of experts as the base with the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import adapters_by_class
import numpy as np
import pytest
from consumers import TOKENS, mlx_logits, peft_logits, transformers_logits
from peft_folders import make_experts, real_peft
from tiny_models import make_tokenizer

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.records.bases import base_folder
from fusery.registry.runtime.mlx_keys import written_config

pytestmark = pytest.mark.slow
pytest.importorskip("mlx_lm")

KINDS = ("qwen3_moe", "mixtral", "qwen2_moe")
ADAPTERS = ("layers and experts of mlx-lm", "experts of PEFT", "full fine-tuning")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("adapter", "target"), list(zip(ADAPTERS, ("model", "hub", "model"), strict=True)))
def test_experts_are_read_by_transformers_and_mlx_lm(
    kind: str, adapter: str, target: str, sqlite_registry: Registry, tmp_path: Path
) -> None:
    """`transformers_logits` accepts no missing, unknown or newly initialised weight."""
    real_peft("tiny", kind, "null", tmp_path / "base")
    base = tmp_path / "base"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(written_config(config)))
    if adapter == "experts of PEFT":
        made = make_experts(tmp_path / "adapter", base)
        expected = peft_logits(base, made, tmp_path)
    else:
        how = "full" if adapter == "full fine-tuning" else "lora"
        made = adapters_by_class.make_adapter(tmp_path / "adapter", base, kind=how, rank=2, update=0.3)
        expected = mlx_logits(base, made)
    assert np.abs(expected - transformers_logits(base, tmp_path)).max() > 1e-3 * np.abs(expected).max()
    sqlite_registry.bases.add(str(base), name="experts")
    sqlite_registry.adapters.register(made, base="experts", task="experts")
    bundle = tmp_path / "bundle"
    request = FuseRequest("keep", accept_loss=True)
    sqlite_registry.bundles.materialize("experts@1", bundle, target=target, request=request)
    assert "AutoModelForCausalLM" in (bundle / "README.md").read_text()
    for found in (transformers_logits(bundle, tmp_path), mlx_logits(bundle)):
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert TOKENS.max() < config["vocab_size"]


@pytest.mark.parametrize("kind", ["qwen3_vl", "mistral3", "gemma3"])
def test_card_names_the_class_that_loads_a_model_with_a_vision_tower(
    kind: str, sqlite_registry: Registry, tmp_path: Path
) -> None:
    """Most of them are unknown to `AutoModelForCausalLM`; the peer loads all by the class that the card names."""
    base = tmp_path / "base"
    real_peft("tiny", kind, "null", base)
    make_tokenizer(base)
    sqlite_registry.bases.add(str(base), name="sees")
    with base_folder(sqlite_registry.workspace, "sees") as ours:
        adapter = adapters_by_class.make_adapter(
            tmp_path / "adapter", ours, rank=2, keys=["self_attn.q_proj"]
        )
    sqlite_registry.adapters.register(adapter, base="sees", task="sees")
    sqlite_registry.bundles.materialize(
        "sees@1", tmp_path / "bundle", request=FuseRequest("keep", accept_loss=True)
    )
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert 'AutoModelForImageTextToText.from_pretrained(".")' in card and "AutoModelForCausalLM" not in card
    np.save(tmp_path / "tokens.npy", np.array([[1, 2, 3]]))
    real_peft("scores", tmp_path / "bundle", tmp_path / "tokens.npy", tmp_path / "logits.npy")
    assert np.isfinite(np.load(tmp_path / "logits.npy")).all()
