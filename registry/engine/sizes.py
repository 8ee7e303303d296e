"""Sizes in a configuration that no model has: they are told before anything is counted, allocated or built by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_LAYERS, _WIDTH, _WORDS = 10_000, 1 << 24, 1 << 28
MOST: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), _LAYERS),
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "n_embd", "d_model", "moe_intermediate_size"), _WIDTH
    ),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_heads", "n_head", "head_dim"), _WIDTH),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), _WIDTH),
    "vocab_size": _WORDS,
    "max_position_embeddings": (1 << 31) - 1,
}
"""Whole numbers of a configuration and the most that they can be, far above any model there is."""

_AT_LEAST_ONE = frozenset({"num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"})
_POSITIVE = frozenset({"rope_theta", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"})
_PARTS = ("text_config", "vision_config")


def absurdity(config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first size that cannot be one, in a few words; None where nothing is.

    A size may be left out, null or, where layers differ, a list of sizes.
    """
    for name, most in MOST.items():
        least = 1 if name in _AT_LEAST_ONE else 0
        values = config.get(name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not _is_whole(value, least, most):
                return f"{name} is {_shown(value)}, and not a whole number from {least} to {most:,}"
    for name in sorted(_POSITIVE):
        if (value := config.get(name)) is not None and not _is_positive(value):
            return f"{name} is {_shown(value)}, and not a number above 0"
    quantization = config.get("quantization")
    if quantization is not None and not isinstance(quantization, Mapping):
        return f"quantization is {_shown(quantization)}, and not an object"
    for part in _PARTS:
        if isinstance(inner := config.get(part), Mapping) and (found := absurdity(inner)):
            return f"{part}: {found}"
    return None


def _is_whole(value: Any, least: int, most: int) -> bool:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_positive(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Models compute in float32, which knows no larger ones.
    return 0 < value < 3e38


def _shown(value: Any) -> str:
    return repr(value)[:40]
