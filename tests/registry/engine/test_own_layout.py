"""Bases whose class in mlx-lm drops tensors lose none of them; `test_transformers_5.py` reads them with transformers."""

from __future__ import annotations

import json
from pathlib import Path

import adapters_by_class
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from tensor_files import load_raw

from fusery.registry.engine.own_layout import is_droppable
from fusery.registry.engine.policy import Policy, Quantize
from fusery.registry.engine.precisions import DEQUANTIZE, KEEP
from fusery.registry.errors import FusionUnsupportedError

from .conftest import OurFuse

pytest.importorskip("mlx_lm")

SEES = {"vision_config": {"hidden_size": 8}}


@pytest.mark.parametrize("precision", [KEEP, DEQUANTIZE, Policy(KEEP, quantize=Quantize(4, 32))])
def test_every_precision_keeps_the_tower(precision: str | Policy, tmp_path: Path, our_fuse: OurFuse) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", "gemma3", layout="hf", config=SEES)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    folder, _ = our_fuse(base, adapter, precision)
    assert json.loads((folder / "config.json").read_text())["vision_config"] == SEES["vision_config"]
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    tower = [name for name in before if name.startswith(("vision_tower.", "multi_modal_projector."))]
    assert tower and {name: after[name] for name in tower} == {name: before[name] for name in tower}
    assert before.keys() <= after.keys()
    adapters_by_class.load_lazily(folder)


def test_base_that_fits_neither_layout_is_refused(tmp_path: Path, our_fuse: OurFuse) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", "llama4", layout="hf", config=SEES)
    attention = adapters_by_class.make_adapter(tmp_path / "attention", base, keys=["self_attn.q_proj"])
    folder, _ = our_fuse(base, attention)
    assert tiny_models.read_tensors(folder).keys() == tiny_models.read_tensors(base).keys()
    experts = adapters_by_class.make_adapter(tmp_path / "experts", base)
    (tmp_path / "other").mkdir()
    with pytest.raises(FusionUnsupportedError, match=r"vision_model\.class_embedding"):
        our_fuse(base, experts, name="refused", scratch=tmp_path / "other")


def test_known_droppable_tensors() -> None:
    config = {"tie_word_embeddings": True, "text_config": {"num_hidden_layers": 2}}
    for name, droppable in {
        "model.layers.0.self_attn.rotary_emb.inv_freq": True,
        "transformer.h.0.attn.bias": True,
        "transformer.h.0.attn.c_attn.bias": False,
        "lm_head.weight": True,
        "mtp.layers.0.mlp.up_proj.weight": True,
        "model.layers.2.enorm.weight": True,
        "model.layers.1.enorm.weight": False,
        "model.visual.blocks.0.attn.qkv.weight": False,
        "model.audio_tower.layers.7.fc1.weight": False,
    }.items():
        assert is_droppable(name, config) is droppable, name


def test_it_keeps_its_tower_and_the_configuration(tmp_path: Path, our_fuse: OurFuse) -> None:
    """Names and entries as transformers 5.24 makes them of a tiny gemma3, and as mlx-vlm saves such models."""
    tower = {
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (32, 14, 14, 3),
        "multi_modal_projector.mm_input_projection_weight": (32, 128),
    }
    base = tiny_models.make_base(tmp_path / "base")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=-1)
    for file in (base / "model.safetensors", adapter / "adapters.safetensors"):
        tensors = {f"language_model.{path}": raw for path, raw in load_raw(file).items()}
        if file.parent == base:
            tensors |= {path: ("BF16", np.ones(shape, np.uint16)) for path, shape in tower.items()}
        tiny_models.write_tensors(file, tensors, {"format": "mlx"} if file.parent == base else None)
    parts = {"text_config": {"hidden_size": 128}, "vision_config": {"hidden_size": 32, "patch_size": 14}}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "gemma3", **parts}))
    folder, _ = our_fuse(base, adapter)
    written = json.loads((folder / "config.json").read_text())
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    assert {part: after[part] for part in tower} == {part: before[part] for part in tower}
    assert {name: written[name] for name in parts} == parts
