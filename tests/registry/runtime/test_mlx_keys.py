"""The keys that mlx-lm reads and transformers 5 does not write: which, and that the tables are those of the installed mlx-lm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.runtime.mlx_keys import (
    CLASSES,
    READ_ALL,
    READ_THETA,
    added_keys,
    class_of,
    mlx_keys,
    with_mlx_keys,
    written_config,
)

FLAT = {"rope_type": "default", "rope_theta": 5e5}
LLAMA3 = {**FLAT, "rope_type": "llama3", "factor": 8.0}
NESTED = {"full_attention": {**FLAT, "partial_rotary_factor": 0.5}, "sliding_attention": {"rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"model_type": "llama", "rope_theta": 1e4}, {}),
        ({"model_type": "llama", "rope_parameters": FLAT}, {"rope_theta": 5e5}),
        (
            {"model_type": "llama", "rope_parameters": LLAMA3},
            {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "type": "llama3"}},
        ),
        ({"model_type": "qwen3", "rope_parameters": LLAMA3}, {}),
        ({"model_type": "lfm2", "rope_parameters": FLAT, "block_dim": 64}, {}),
        ({"model_type": "stablelm", "rope_parameters": NESTED["full_attention"]}, {"rope_theta": 5e5, "partial_rotary_factor": 0.5}),
        (
            {"model_type": "gemma3_text", "rope_parameters": NESTED},
            {"rope_theta": 5e5, "partial_rotary_factor": 0.5, "rope_local_base_freq": 1e4},
        ),
        ({"model_type": "exaone4", "head_dim": 8, "rope_parameters": FLAT}, {"rope_theta": 5e5, "rope_scaling": None}),
        ({"model_type": "gpt_neox", "rope_parameters": FLAT}, {"rotary_emb_base": 5e5, "rotary_pct": 1.0}),
        ({"model_type": "gpt_neox", "rope_parameters": NESTED["full_attention"]}, {"rotary_emb_base": 5e5, "rotary_pct": 0.5}),
        ({"model_type": "mamba2", "hidden_size": 8, "transformers_version": "4.57.1"}, {}),
        ({"model_type": "mamba2", "hidden_size": 8, "transformers_version": "5.0.0"}, {"intermediate_size": 16}),
        (
            {"model_type": "qwen3_moe", "rope_parameters": FLAT, "num_local_experts": 4, "hidden_size": 64, "num_attention_heads": 4},
            {"rope_theta": 5e5, "head_dim": 16, "num_experts": 4},
        ),
        (
            {"model_type": "gemma3_text", "rope_parameters": {**FLAT, "mrope_section": [8]}, "layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2},
            {"rope_theta": 5e5, "rope_scaling": {**FLAT, "mrope_section": [8], "type": "default"}, "sliding_window_pattern": 3},
        ),
        (
            {"model_type": "cohere2", "rope_parameters": FLAT, "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]},
            {"rope_theta": 5e5},
        ),
        (
            {"model_type": "exaone4", "head_dim": 8, "transformers_version": "5.0", "layer_types": ["sliding_attention", "full_attention"]},
            {"sliding_window_pattern": "LG", "rope_scaling": None},
        ),
        (
            {"model_type": "exaone_moe", "head_dim": 8, "transformers_version": "5.0", "mlp_layer_types": ["dense", "sparse"]},
            {"is_moe_layer": [False, True]},
        ),
        (
            {"model_type": "llava", "text_config": {"model_type": "llama", "rope_parameters": FLAT}, "tie_word_embeddings": False},
            {"text_config.rope_theta": 5e5, "text_config.tie_word_embeddings": False},
        ),
    ],
)  # fmt: skip
def test_what_is_added(config: dict[str, Any], added: dict[str, Any]) -> None:
    before = json.dumps(config)
    if "text_config" in config:
        config["transformers_version"] = "5.1.0"
        before = json.dumps(config)
    assert added_keys(config) == added
    completed = with_mlx_keys(config)
    assert mlx_keys(completed) == {}, "once is enough"
    assert json.dumps(config) == before
    assert config.keys() <= completed.keys()


@pytest.mark.parametrize(
    ("config", "older"),
    [
        ({"model_type": "qwen3", "rope_parameters": FLAT}, {"rope_theta": 5e5}),
        (
            {"model_type": "qwen3", "rope_parameters": LLAMA3},
            {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "type": "llama3"}},
        ),
        ({"model_type": "qwen3", "rope_theta": 1e4, "rope_parameters": FLAT}, {}),
        ({"model_type": "lfm2", "rope_parameters": FLAT, "block_dim": 64}, {"rope_theta": 5e5}),
        ({"model_type": "gemma4_text", "rope_parameters": NESTED}, {}),
        ({"model_type": "qwen3", "dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"model_type": "qwen3", "dtype": "bfloat16", "torch_dtype": "float16"}, {}),
        ({"model_type": "qwen3", "dtype": {"a": 1}}, {}),
    ],
)
def test_older_names_are_written_beside_the_new_ones(config: dict[str, Any], older: dict[str, Any]) -> None:
    assert written_config(config) == {**config, **older}
    text = {"model_type": "llava", "text_config": config}
    assert written_config(text) == {"model_type": "llava", "text_config": {**config, **older}}


KEYS = ["rope_parameters", "rope_theta", "layer_types", "full_attention", "head_dim", "expand", "hidden_size"]
KEYS += ["num_attention_heads", "rope_type", "partial_rotary_factor", "factor"]
TYPES = ["llama", "gemma3_text", "exaone4", "minimax", "cohere2", "exaone_moe", "mamba2", "gemma3"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    ),
    st.sampled_from(TYPES),
)
def test_whatever_a_configuration_says(value: Any, kind: str) -> None:
    wild = value if isinstance(value, dict) else {"rope_parameters": value, "layer_types": value}
    config = {**wild, "model_type": kind, "transformers_version": "5.0", "text_config": value}
    assert with_mlx_keys(config)["model_type"] == kind
    once = written_config(config)
    assert json.dumps(written_config(once)) == json.dumps(once)


def test_the_classes_are_read_as_the_installed_mlx_lm_has_them() -> None:
    pytest.importorskip("mlx_lm")
    from mlx_lm import models
    from mlx_lm.utils import MODEL_REMAPPING

    sources = {path.stem: path.read_text(encoding="utf-8") for path in Path(models.__path__[0]).glob("*.py")}
    reading = {name for name, source in sources.items() if "rope_parameters" in source}
    assert reading == READ_ALL | READ_THETA
    assert all("rope_theta" in sources[name] for name in READ_THETA)
    assert set(CLASSES.values()) <= sources.keys()
    assert all(MODEL_REMAPPING.get(name, target) == target for name, target in CLASSES.items())
    assert class_of("llama") == "llama"


def test_absurd_values_are_no_failure() -> None:
    factor = {"partial_rotary_factor": 1e999}
    for config in (
        {"transformers_version": "²"},
        {"transformers_version": "9" * 5000},
        {"transformers_version": "5.0", "model_type": "minimax", "head_dim": 10**400},
        {"transformers_version": "5.0", "model_type": "minimax", "rope_parameters": factor},
    ):
        mlx_keys({"hidden_size": 64, "num_attention_heads": 4} | config)
