"""Sliding windows that transformers computes and mlx-lm's class of the model ignores.

Source: `configuration_*.py` and `modeling_*.py` of transformers 5.24, src/transformers/models/*/; mlx-lm 0.32.2, mlx_lm/models/.  A
test compares the tables with the installed mlx-lm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

EVERY_LAYER: Final[Mapping[str, int | None]] = {
    "mistral": 4096,
    "mixtral": None,
    "phi3": None,
    "phimoe": None,
    "starcoder2": None,
}
"""Model types whose layers all have the window, if there is one, and the window where `config.json` has no `sliding_window`."""

SOME_LAYERS: Final[Mapping[str, int | None]] = {"gemma2": 4096, "minimax": None}
"""The same for model types of which some layers have it."""

IF_ASKED: Final = frozenset(
    (
        "qwen2",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen2_moe",
        "qwen2_vl",
        "qwen2_vl_text",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    )
)
"""Model types that have a window only where `use_sliding_window` is true."""


def ignored_window(config: Mapping[str, Any]) -> int | None:
    """Return the window in tokens, if it is shorter than the model's context and mlx-lm ignores it; else None."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {"model_type": config.get("model_type"), **text}
    kind = str(config.get("model_type"))
    if kind in IF_ASKED:
        if not config.get("use_sliding_window") or _is_beyond(config, kind):
            return None
    elif kind not in EVERY_LAYER and kind not in SOME_LAYERS:
        return None
    window = config.get("sliding_window", {**EVERY_LAYER, **SOME_LAYERS}.get(kind))
    context = config.get("max_position_embeddings")
    layers = config.get("layer_types")
    if type(window) is not int or window < 1 or (type(context) is int and window >= context):
        return None
    return None if isinstance(layers, list) and "sliding_attention" not in layers else window


def _is_beyond(config: Mapping[str, Any], kind: str) -> bool:
    """Tell whether the layers with the window would begin after the last layer."""
    first, count = config.get("max_window_layers"), config.get("num_hidden_layers")
    counted = kind not in ("qwen2_moe", "qwen3_moe", "smollm3") and "layer_types" not in config
    return counted and type(first) is int and type(count) is int and first >= count
