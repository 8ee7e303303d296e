"""A fused model sees as its base does: the weights of its tower are copied, and the configuration that they need stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw

from .conftest import OurFuse

# Names and entries as transformers 5.24 makes them of tiny configurations, and as mlx-vlm saves such models.
LAYOUTS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "gemma3": (
        "language_model.",
        {"model_type": "siglip_vision_model", "hidden_size": 32, "patch_size": 14},
        {
            "vision_tower.vision_model.embeddings.patch_embedding.weight": (32, 14, 14, 3),
            "multi_modal_projector.mm_input_projection_weight": (32, 128),
        },
    ),
    "qwen3_vl": (
        "model.language_",
        {"depth": 1, "hidden_size": 32, "deepstack_visual_indexes": [0]},
        {"model.visual.blocks.0.attn.qkv.weight": (96, 32)},
    ),
    "idefics3": (
        "language_model.",
        {"hidden_size": 32, "image_size": 28},
        {"connector.modality_projection.proj.weight": (128, 128)},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_keeps_its_tower_and_the_configuration(name: str, tmp_path: Path, our_fuse: OurFuse) -> None:
    prefix, vision, tower = LAYOUTS[name]
    base, adapter = seeing(tmp_path, name, prefix, vision, tower)
    folder, _ = our_fuse(base, adapter)
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    assert {part: after[part] for part in tower} == {part: before[part] for part in tower}
    config = json.loads((folder / "config.json").read_text())
    assert config["vision_config"] == vision
    assert config["text_config"] == {"hidden_size": 128}


def test_without_a_tower_there_is_nothing_to_configure(tmp_path: Path, our_fuse: OurFuse) -> None:
    base, adapter = seeing(tmp_path, "gemma3", "language_model.", {"hidden_size": 32}, {})
    folder, _ = our_fuse(base, adapter)
    assert "vision_config" not in json.loads((folder / "config.json").read_text())


def seeing(
    scratch: Path, model_type: str, prefix: str, vision: dict[str, Any], tower: dict[str, tuple[int, ...]]
) -> tuple[Path, Path]:
    """Write a model with a tower beside its text, and an adapter of the text."""
    base = tiny_models.make_base(scratch / "base")
    adapter = tiny_models.make_adapter(scratch / "adapter", base, num_layers=-1)
    for file in (base / "model.safetensors", adapter / "adapters.safetensors"):
        tensors = {prefix + path: raw for path, raw in load_raw(file).items()}
        if file.parent == base:
            tensors |= {path: ("BF16", np.ones(shape, np.uint16)) for path, shape in tower.items()}
        tiny_models.write_tensors(file, tensors, {"format": "mlx"} if file.parent == base else None)
    config = json.loads((base / "config.json").read_text())
    more = {"model_type": model_type, "text_config": {"hidden_size": 128}, "vision_config": vision}
    (base / "config.json").write_text(json.dumps({**config, **more}))
    return base, adapter
