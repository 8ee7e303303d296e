"""The table of architectures against the installed mlx-lm: what its `sanitize` methods really drop."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
from peft_folders import real_peft

from fusery.registry.engine.architectures import (
    NOT_IN_TRANSFORMERS,
    REMAPPED,
    TABLE,
    architecture_of,
    taken_by_name,
)
from fusery.registry.engine.config import absurdity

pytest.importorskip("mlx_lm")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_entry_says_what_mlx_lm_does(name: str) -> None:
    module = importlib.import_module(f"mlx_lm.models.{name}")
    sanitize = getattr(module.Model, "sanitize", None)
    source = inspect.getsource(sanitize) if sanitize else ""
    entry = TABLE[name]
    # Nothing that makes, renames or computes tensors; the one exception is named in the table.
    made = re.findall(r"weights\[[^]]+\] = ", source)
    assert made == (['weights["lm_head.weight"] = '] if entry.needs else [])
    assert not re.search(r"mx\.|\.replace\(|reshape|transpose|stack|split", source)
    dropped = re.findall(r'"([\w.]+)" not in k\b', source)
    assert tuple(dropped) == entry.drops
    assert re.findall(r'startswith\("([\w.]+)"\)', source) == [entry.drops_prefix] * (
        entry.drops_prefix is not None
    )
    pops = re.search(r'tie_word_embeddings:\s+weights\.pop\("lm_head\.weight"', source) is not None
    assert pops is (entry.tied is not None)
    if pops:
        fields = {field.name: field.default for field in dataclasses.fields(module.ModelArgs)}
        default = fields["tie_word_embeddings"]
        assert entry.tied is (False if default is dataclasses.MISSING else default)


def test_model_types_that_transformers_lacks() -> None:
    from mlx_lm import models
    from mlx_lm.utils import MODEL_REMAPPING
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    files = Path(models.__path__[0]).glob("*.py")
    classes = {path.stem for path in files if "class Model(" in path.read_text(encoding="utf-8")}
    types = classes | set(MODEL_REMAPPING)
    assert types - set(CONFIG_MAPPING_NAMES) == NOT_IN_TRANSFORMERS


@pytest.mark.slow
def test_peft_knows_the_other_model_types() -> None:
    from mlx_lm.utils import MODEL_REMAPPING

    assert set(real_peft("kinds")) >= {*TABLE, *MODEL_REMAPPING} - NOT_IN_TRANSFORMERS


def test_remapped_types_are_those_of_mlx_lm() -> None:
    from mlx_lm.utils import MODEL_REMAPPING

    for name, target in REMAPPED.items():
        assert MODEL_REMAPPING[name] == target
        assert architecture_of(name) is TABLE[target]
    assert {name for name, target in MODEL_REMAPPING.items() if target in TABLE} == set(REMAPPED)


def test_what_is_dropped() -> None:
    head, rotary = "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"
    predictor = "model.mtp_layers.0.w.weight"
    for name, config, dropped in (
        ("llama", {}, {head, rotary}),
        ("llama", {"tie_word_embeddings": False}, {rotary}),
        ("qwen3", {}, set()),
        ("qwen3", {"tie_word_embeddings": True}, {head}),
        ("mimo", {}, {rotary, predictor}),
        ("gemma2", {"tie_word_embeddings": True}, set()),
    ):
        assert TABLE[name].dropped({head, rotary, predictor, "model.norm.weight"}, config) == dropped
        assert TABLE[name].dropped(set(), config) == set()


def test_bases_that_are_taken_by_name() -> None:
    llama, other = {"model_type": "llama"}, {"model_type": "gpt_oss"}
    awq = {**llama, "quantization_config": {"quant_method": "awq"}}
    for config, by_mlx, quantize, by_name in (
        (llama, False, False, True), (llama, False, True, True), ({"model_type": "granite"}, False, True, False),
        (other, False, False, False), (other, True, False, True), (other, True, True, False),
        (awq, False, False, False), ({**awq, "quantization": {"bits": 4, "group_size": 64}}, False, False, True),
        ({**llama, "quantization": {}}, False, False, True), ({}, False, False, True),
        ({"model_type": "bitnet"}, True, False, False),
    ):  # fmt: skip
        found = taken_by_name(config, (), written_by_mlx=by_mlx, quantize=quantize)
        assert found is by_name, (config, by_mlx, quantize)
    assert not taken_by_name(llama, ["hf_quant_config.json"], written_by_mlx=False)


def test_sizes_that_no_model_has() -> None:
    plain = {
        "hidden_size": 8,
        "vocab_size": 1.0,
        "num_experts": 0,
        "n_heads": [1, None, 2],
        "rope_theta": 1e4,
    }
    for sound in (
        {},
        {"hidden_size": 1 << 24, "max_position_embeddings": (1 << 31) - 1, "norm_eps": 1},
        plain,
    ):
        assert absurdity(sound) is None
    for wrong in (
        {"hidden_size": 0}, {"hidden_size": (1 << 24) + 1}, {"hidden_size": True}, {"hidden_size": 1.5}, {"n_heads": -1},
        {"num_hidden_layers": 10_001}, {"max_position_embeddings": 1 << 31}, {"n_heads": [1, -1]}, {"rope_theta": 0},
        {"rope_theta": 3e38}, {"norm_eps": True}, {"norm_eps": "1"}, {"quantization": 4},
        {"text_config": {"hidden_size": 0}}, {"vision_config": {"norm_eps": -1}},
    ):  # fmt: skip
        assert absurdity(wrong), wrong
        assert absurdity({**plain, **wrong}), wrong
    assert absurdity({"text_config": [{"hidden_size": 0}]}) is None
