"""A fused model sees as its base does: the weights of its tower are copied, and the configuration that they need stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw

from .conftest import OurFuse


@pytest.mark.parametrize("sees", [True, False])
def test_it_keeps_its_tower_and_the_configuration(sees: bool, tmp_path: Path, our_fuse: OurFuse) -> None:
    """Names and entries as transformers 5.24 makes them of a tiny gemma3, and as mlx-vlm saves such models."""
    tower = {
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (32, 14, 14, 3),
        "multi_modal_projector.mm_input_projection_weight": (32, 128),
    }
    base = tiny_models.make_base(tmp_path / "base")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=-1)
    for file in (base / "model.safetensors", adapter / "adapters.safetensors"):
        tensors = {f"language_model.{path}": raw for path, raw in load_raw(file).items()}
        if file.parent == base and sees:
            tensors |= {path: ("BF16", np.ones(shape, np.uint16)) for path, shape in tower.items()}
        tiny_models.write_tensors(file, tensors, {"format": "mlx"} if file.parent == base else None)
    parts = {"text_config": {"hidden_size": 128}, "vision_config": {"hidden_size": 32, "patch_size": 14}}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "gemma3", **parts}))
    folder, _ = our_fuse(base, adapter)
    written = json.loads((folder / "config.json").read_text())
    if sees:
        before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
        assert {part: after[part] for part in tower} == {part: before[part] for part in tower}
        assert {name: written[name] for name in parts} == parts
    else:  # without a tower there is nothing to configure
        assert "vision_config" not in written
