"""Bases: which are taken by the names of their tensors, which through mlx-lm's class, which not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, rewrite

from fusery.registry.engine.architectures import NeedsModelClassError
from fusery.registry.engine.config import copied_names, has_vision, weight_names
from fusery.registry.errors import FusionUnsupportedError, MissingExtraError
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.safetensors import build_header

from .conftest import Planner

REFUSED: dict[str, dict[str, Any]] = {
    "code of its own": {"model_file": "m.py"},
    "no model type": {"model_type": None},
    "quantised activations": {"quantize_activations": True},
    "quantisation malformed": {"quantization": {"bits": 4}},
    "quantisation is a list": {"quantization": [4, 64]},
}

_AWQ = {"quantization_config": {"quant_method": "awq"}}
BY_CLASS: dict[str, dict[str, Any]] = {
    "loading changes weights": {"model_type": "baichuan_m1"},
    "layers of another kind": {"model_type": "afm7"},
    "awq": {"quantization": None, **_AWQ},
    "another tool": {"quantization": None, "quantization_config": {"bits": 4}},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_refused_configurations(
    change: dict[str, Any], base: Path, adapter: Path, tmp_path: Path, planned: Planner
) -> None:
    for scratch in (None, tmp_path):
        with pytest.raises(FusionUnsupportedError) as caught:
            planned(base, adapter, config=change, scratch=scratch)
        assert not isinstance(caught.value, NeedsModelClassError)
        assert len(caught.value.message) < 250


@pytest.mark.parametrize("change", BY_CLASS.values(), ids=BY_CLASS)
def test_configurations_for_the_class(
    change: dict[str, Any], base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(NeedsModelClassError) as caught:
        planned(base, adapter, config=change, scratch=None)
    assert len(caught.value.message) < 250


def test_without_mlx_the_extra_is_missing(
    base: Path, adapter: Path, tmp_path: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlx", "mlx.core", "mlx_lm", "mlx_lm.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        planned(base, adapter, config={"model_type": "afm7"}, scratch=tmp_path)
    assert caught.value.extra == "mlx"
    assert len(planned(base, adapter, scratch=tmp_path).modules) == 7  # a known architecture needs no mlx


def test_a_base_in_the_layout_of_the_hub(tmp_path: Path, adapter: Path, planned: Planner) -> None:
    base = tiny_models.make_base(tmp_path / "hub", layout="hf", layers=3)
    assert planned(base, adapter).modules
    assert planned(base, adapter, config={"model_type": "mistral"}).modules
    with pytest.raises(NeedsModelClassError):
        planned(base, adapter, config={"model_type": "mixtral"}, scratch=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"model.extra": ("F8_E4M3", np.zeros(4, np.uint8))}),  # MLX reads it as bytes
        lambda t: t.pop("lm_head.weight"),  # mlx-lm would initialise it at random
    ],
)
def test_tensors_that_need_the_class(change: Change, dense: Path, adapter: Path, planned: Planner) -> None:
    rewrite(dense, change)
    with pytest.raises(NeedsModelClassError):
        planned(dense, adapter, config={"model_type": "minicpm"}, scratch=None)


def test_damaged_and_missing_files(base: Path, adapter: Path, planned: Planner) -> None:
    weights = base / "model.safetensors"
    (base / "model-extra.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(FormatError):
        planned(base, adapter)
    (base / "model-extra.safetensors").unlink()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError):
        planned(base, adapter)
    weights.unlink()
    with pytest.raises(FormatError):
        planned(base, adapter)
    (adapter / "adapters.safetensors").unlink()
    weights.write_bytes(build_header([]))
    with pytest.raises((MissingFileError, FusionUnsupportedError)):
        planned(base, adapter)


COPIED = [
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tokenizer.model.v3.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/rag.jinja", "qwen.tiktoken"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
    *("LICENSE.txt", "NOTICE"),
]
LEFT = [
    *("config.json", "README.md", "model.safetensors", "model.safetensors.index.json", "training_args.bin"),
    *("tokenizer.py", "tokenizer_config.json.py", "vocab.py", "LICENSE.py", "LICENSE.sh", "modeling_x.py"),
    *(
        "../tokenizer.json",
        "a/tokenizer.json",
        "additional_chat_templates/../x.jinja",
        "tokenizer.json\n",
        "",
    ),
]


def test_copied_files() -> None:
    assert copied_names(COPIED + LEFT) == sorted(COPIED)
    weights = ["model-00001-of-00002.safetensors", "model.safetensors"]  # what mlx-lm globs
    assert weight_names([*weights, "consolidated.safetensors", "adapters.safetensors"]) == weights


TOWERS = [
    # transformers 5 in memory, and as it and mlx-vlm save them: llava, paligemma, gemma3, mistral3, internvl
    *("model.vision_tower.encoder.layers.0.fc1.weight", "multi_modal_projector.mm_input_projection_weight"),
    # qwen2_vl, qwen3_vl, glm4v
    *("visual.blocks.0.attn.qkv.weight", "model.visual.merger.mlp.0.weight"),
    # mllama, llama4, idefics3, smolvlm, janus, ovis2
    *("vision_model.patch_embedding.weight", "connector.modality_projection.proj.weight"),
    *("aligner.fc1.weight", "model.visual_embeddings_table.weight"),
    # phi3_v, gemma3n, mistral's own, minicpm-v
    *("model.vision_embed_tokens.embeddings.class_embedding", "embed_vision.embedding_projection.weight"),
    *("vpm.encoder.layers.0.mlp.fc1.weight", "resampler.kv_proj.weight"),
]
TEXT = [
    *("language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight"),
    *("model.layers.0.mlp.switch_mlp.gate_proj.weight", "backbone.layers.0.mixer.conv1d.weight"),
    *("transformer.h.0.attn.c_attn.weight", "audio_tower.conv1.weight"),
]


def test_towers_are_known_by_their_names() -> None:
    assert [name for name in TOWERS if not has_vision([*TEXT, name])] == []
    assert not has_vision(TEXT)
