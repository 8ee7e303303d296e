"""The keys of `config.json` that mlx-lm's classes read, added to configurations of transformers 5.

Some classes take a silent default without `rope_theta`, `rope_scaling` and `partial_rotary_factor`.  The tables do not depend on
the installed mlx-lm, since their keys are in a fused model's digest; tests compare them with mlx-lm and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

READ_THETA: Final = frozenset(
    ("exaone_moe", "granitemoehybrid", "lfm2", "lfm2_moe", "muse_glimmer", "muse_spark", "olmo_hybrid")
)
"""Classes that read only `rope_theta` of `rope_parameters`."""

READ_ALL: Final = frozenset(
    ("gemma4_text", "glm_moe_dsa", "laguna", "mellum", "minimax_m3_vl", "ministral3", "mistral4", "qwen3")
) | {"qwen3_5", "spark2_5"}
"""Classes that read all of `rope_parameters`."""

CLASSES: Final[Mapping[str, str]] = {
    "iquestcoder": "llama",
    "minimax_m2": "minimax",
    "minimax_m3_vl_text": "minimax_m3_vl",
    "mistral": "llama",
    "gemma4_unified_text": "gemma4_text",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_5_moe_text": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_vl_text": "qwen3",
    "xverse": "llama",
}
"""Model types whose class has another name."""

Config = Mapping[str, Any]


def with_mlx_keys(config: Config) -> dict[str, object]:
    """Return a configuration with mlx-lm's keys."""
    return {**config, **mlx_keys(config)}


def written_config(config: Config) -> dict[str, object]:
    """Return a configuration with mlx-lm's keys, and with those of transformers 4, which otherwise takes a default."""
    mlx_config = with_mlx_keys(config)
    text = mlx_config.get("text_config")
    if isinstance(text, Mapping):
        mlx_config["text_config"] = {**text, **_older_names(text)}
    return {**mlx_config, **_older_names(mlx_config)}


def mlx_keys(config: Config) -> dict[str, object]:
    """Return the keys to add to a configuration for mlx-lm; none for most."""
    version = str(config.get("transformers_version", "")).partition(".")[0]
    new = re.fullmatch(r"[0-9]{1,4}", version) is not None and int(version) >= 5
    keys = _keys(config, new)
    text = config.get("text_config")
    if isinstance(text, Mapping):
        own = _keys(text, new, config)
        if own:
            keys["text_config"] = {**text, **own}
    return keys


def added_keys(config: Config) -> dict[str, object]:
    """Return the keys of `mlx_keys`, with those of `text_config` as `text_config.KEY`."""
    keys = mlx_keys(config)
    text = keys.pop("text_config", None)
    if isinstance(text, Mapping):
        before = config["text_config"]
        keys |= {f"text_config.{key}": value for key, value in text.items() if before.get(key) is not value}
    return keys


def class_of(model_type: object) -> str:
    """Return the name of mlx-lm's class of a `model_type`."""
    name = str(model_type)
    return CLASSES.get(name, name)


def _keys(config: Config, new: bool, parent: Config | None = None) -> dict[str, object]:
    name = class_of(config.get("model_type"))
    rope = config.get("rope_parameters")
    wanted: dict[str, object] = {}
    if isinstance(rope, Mapping) and rope:
        wanted = _rotary(name, rope)
        new = True
    if new:
        wanted |= {key: rule(config) for key, rule in _OTHERS.get(name, {}).items()}
        if parent is not None:
            wanted["tie_word_embeddings"] = parent.get("tie_word_embeddings")
    missing = {key: value for key, value in wanted.items() if value is not None and config.get(key) is None}
    if new and name in _WANT_SCALING and "rope_scaling" not in {**config, **missing}:
        missing["rope_scaling"] = None
    return missing


def _rotary(name: str, rope: Mapping[str, Any]) -> dict[str, object]:
    """Return `rope_parameters` under the names of transformers 4; of full attention if they differ by kind of layer."""
    if name in READ_ALL or name in _NAMED_OTHERWISE:
        return {}
    kinds = _kinds_of_layers(rope)
    flat_rotary = _flat_rotary(kinds.get("full_attention", next(iter(kinds.values()), rope)))
    if name in READ_THETA:
        del flat_rotary["rope_theta"]
    if name in _LOCAL:
        flat_rotary["rope_local_base_freq"] = kinds.get("sliding_attention", {}).get("rope_theta")
    return flat_rotary


def _flat_rotary(rope: Mapping[str, Any]) -> dict[str, object]:
    """Return the rotary embedding of one kind of layer under the names of transformers 4."""
    rotary_config = {key: rope.get(key) for key in ("partial_rotary_factor", "rope_theta")}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or "mrope_section" in rope:
        rotary_config["rope_scaling"] = {**rope, "type": kind, "rope_type": kind}
    return rotary_config


def _kinds_of_layers(rope: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {key: value for key, value in rope.items() if isinstance(value, Mapping)}


def _older_names(config: Config) -> dict[str, object]:
    """Return the keys of transformers 4 for settings that a configuration has only under transformers 5's keys."""
    rope, dtype = config.get("rope_parameters"), config.get("dtype")
    older: dict[str, object] = {"torch_dtype": dtype if isinstance(dtype, str) else None}
    # Version 4 has no names for rotary embeddings by kind of layer.
    if (
        isinstance(rope, Mapping)
        and not _kinds_of_layers(rope)
        and config.get("model_type") not in _NAMED_OTHERWISE
    ):
        older |= _flat_rotary(rope)
    return {key: value for key, value in older.items() if value is not None and config.get(key) is None}


def _rope(config: Config, key: str, default: Any = None) -> Any:
    rope = config.get("rope_parameters")
    rope_parameter = rope.get(key) if isinstance(rope, Mapping) else None
    return default if rope_parameter is None else rope_parameter


def _of(key: str) -> Callable[[Config], Any]:
    return lambda config: config.get(key)


def _always(value: Any) -> Callable[[Config], Any]:
    return lambda config: value


def _of_text(key: str, default: object) -> Callable[[Config], Any]:
    """Return a rule for a key of the text, unless it is the class's default."""

    def rule(config: Config) -> Any:
        text = config.get("text_config")
        text_value = text.get(key) if isinstance(text, Mapping) else None
        return None if text_value == default else text_value

    return rule


def _head_dim(config: Config) -> int | None:
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _rotary_dim(config: Config) -> int | None:
    head, part = config.get("head_dim") or _head_dim(config), _rope(config, "partial_rotary_factor", 1.0)
    if not isinstance(head, int) or not isinstance(part, int | float) or not 0 < head < 1 << 20:
        return None
    return int(head * part) if 0 < part <= 1 else None


def _inner_size(config: Config) -> int | None:
    width, factor = config.get("hidden_size"), config.get("expand", 2)
    return width * factor if type(width) is int and type(factor) is int else None


def _period(config: Config) -> int | None:
    """Return the period of layers with full attention; None if they are not evenly spaced."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or "full_attention" not in kinds:
        return None
    every = kinds.index("full_attention") + 1
    even = all((kind == "full_attention") == ((n + 1) % every == 0) for n, kind in enumerate(kinds))
    return every if even else None


def _letters(config: Config) -> str | None:
    """Return a letter for each layer: L with a window, G with full attention."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or "sliding_attention" not in kinds:
        return None
    return "".join("L" if kind == "sliding_attention" else "G" for kind in kinds)


def _sparse(config: Config) -> list[bool] | None:
    kinds = config.get("mlp_layer_types")
    return [kind == "sparse" for kind in kinds] if isinstance(kinds, list) else None


_NAMED_OTHERWISE: Final = ("gpt_neox",)  # classes with other names for rotary embeddings, in `_OTHERS`
_LOCAL: Final = ("gemma3_text", "gemma3n_text")  # classes with another theta for layers with a window
# Classes that require `rope_scaling`, even null.
_WANT_SCALING: Final = frozenset(("exaone4", "glm4_moe", "llama4_text"))

_OTHERS: Final[Mapping[str, Mapping[str, Callable[[Config], Any]]]] = {
    "apertus": {"mlp_bias": _always(False), "post_norm": _always(False), "qk_norm": _always(True)},
    "cohere2": {"sliding_window_pattern": _period},
    "exaone4": {"head_dim": _head_dim, "sliding_window_pattern": _letters},
    "falcon_h1": {"head_dim": _head_dim},
    "exaone_moe": {"head_dim": _head_dim, "is_moe_layer": _sparse},
    "gemma3": {"vocab_size": _of_text("vocab_size", 262208)},
    "gemma3_text": {"sliding_window_pattern": _period},
    "gemma4": {"vocab_size": _of_text("vocab_size", 262144)},
    "glm4_moe": {"head_dim": _head_dim},
    "glm_moe_dsa": {
        "moe_layer_freq": _always(1),
        "scoring_func": _always("sigmoid"),
        "topk_method": _always("noaux_tc"),
    },
    "gpt_neox": {
        "rotary_emb_base": lambda config: _rope(config, "rope_theta"),
        "rotary_pct": lambda config: _rope(config, "partial_rotary_factor", 1.0),
    },
    "lfm2": {"block_dim": _of("hidden_size")},
    "mamba2": {"intermediate_size": _inner_size},
    "mellum": {"num_experts": _of("num_local_experts")},
    "minimax": {"rotary_dim": _rotary_dim, "shared_intermediate_size": _always(0)},
    "qwen3_5": {"full_attention_interval": _period},
    "qwen3_moe": {"head_dim": _head_dim, "num_experts": _of("num_local_experts")},
    "qwen3_next": {"full_attention_interval": _period},
    "qwen3_vl_moe_text": {
        "head_dim": _head_dim,
        "norm_topk_prob": _always(True),
        "num_experts": _of("num_local_experts"),
    },
    "solar_open": {
        "first_k_dense_replace": _always(0),
        "intermediate_size": _of("moe_intermediate_size"),
        "partial_rotary_factor": lambda config: _rope(config, "partial_rotary_factor", 1.0),
    },
}
"""Keys that transformers 5 leaves out because its class has another key or a constant: key to its value."""
