"""Sliding windows that transformers computes and mlx-lm ignores."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from fusery.registry.admission.base_rules import key_findings
from fusery.registry.models.libraries import EVERY_LAYER, IF_ASKED, SOME_LAYERS, ignored_window
from fusery.registry.runtime.mlx_keys import class_of

LONG = {"max_position_embeddings": 32768, "num_hidden_layers": 4}
ASKED = {"sliding_window": 4096, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "mistral", "sliding_window": "4096"}, None),
        ({"model_type": "gemma2"}, 4096),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 4}, None),
        ({"model_type": "qwen2", "sliding_window": 4096}, None),
        ({"model_type": "qwen2", **ASKED, "max_window_layers": 2}, 4096),
        ({"model_type": "qwen2", **ASKED, "max_window_layers": 4}, None),
        ({"model_type": "qwen2_vl", "text_config": {**ASKED, **LONG, "max_window_layers": 0}}, 4096),
        ({}, None),
    ],
)
def test_window_that_mlx_lm_ignores(config: dict[str, Any], window: int | None) -> None:
    whole = {**LONG, **config}
    assert ignored_window(whole) == window
    assert ("base_window_ignored" in [finding.code for finding in key_findings(whole)]) is (
        window is not None
    )


@pytest.mark.parametrize("kind", sorted({*EVERY_LAYER, *SOME_LAYERS, *IF_ASKED}))
def test_the_installed_mlx_lm_ignores_it(kind: str) -> None:
    pytest.importorskip("mlx_lm")
    module = importlib.import_module(f"mlx_lm.models.{class_of(kind)}".replace("2_5_vl", "2_vl"))
    source = inspect.getsource(module)
    # The class of Llama has a window in layers that `layer_types` names, which transformers does not write for Mistral.
    assert "sliding_window" not in source or kind == "mistral"
