"""The architectures that can be written as GGUF, and their keys (gguf/constants.py; llama.cpp's conversion/base.py, llama.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusery.registry.engine.architectures import has_tensor_scales
from fusery.registry.errors import BadInputError
from fusery.registry.models.gguf_llama import LLAMA3, ModelSizes, llama3_factors
from fusery.registry.models.libraries import ignored_window

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
_WINDOWED = "--target model --as 16bit, for transformers or vLLM, which compute the window"


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture."""

    name: str
    interleaved: bool
    theta: float


# By `model_type`.
FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", True, 10000.0),
    "mistral": Family("llama", True, 10000.0),
    "qwen2": Family("qwen2", False, 1000000.0),
    "qwen3": Family("qwen3", False, 1000000.0),
}


@dataclass(frozen=True, slots=True)
class Dimensions(ModelSizes):
    """What a model's configuration says, checked."""

    family: Family
    context: int
    epsilon: float
    theta: float
    scaling: Mapping[str, Any]


def dimensions_of(config: Mapping[str, Any]) -> Dimensions:
    """Return a model's dimensions."""
    kind = str(config.get("model_type"))
    if (family := FAMILIES.get(kind)) is None:
        raise refusal(f"unsupported architecture {kind[:40]!r} (allowed: {', '.join(FAMILIES)})")
    _require_plain(config)
    heads, hidden = _whole(config, "num_attention_heads"), _whole(config, "hidden_size")
    rope = config.get("rope_parameters")
    rope = rope if isinstance(rope, Mapping) else {}
    scaling = config.get("rope_scaling") or rope
    return Dimensions(
        family=family,
        layers=_whole(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_whole(config, "intermediate_size"),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        head_dim=_whole(config, "head_dim", hidden // heads),
        vocab=_whole(config, "vocab_size"),
        context=_whole(config, "max_position_embeddings", 2048),
        epsilon=_real(config, "rms_norm_eps", 1e-6),
        theta=_real(config, "rope_theta", _real(rope, "rope_theta", family.theta)),
        scaling=_scaling(scaling if isinstance(scaling, Mapping) else {}),
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def dimension_keys(model: Dimensions) -> dict[str, Value]:
    """Return the keys that llama.cpp builds the model from."""
    keys: dict[str, Value] = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "feed_forward_length": model.intermediate,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": model.epsilon,
        "rope.freq_base": model.theta,
        "rope.dimension_count": model.head_dim,
        "vocab_size": model.vocab,
    }
    if model.scaling.get("rope_type") == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(model.scaling["factor"])}
    return {f"{model.family.name}.{key}": value for key, value in keys.items()}


def rope_factors(model: Dimensions) -> np.ndarray[Any, Any] | None:
    """Return the factors of Llama 3.1's rotary scaling; None of a model that has another, or none."""
    if model.scaling.get("rope_type") != "llama3":
        return None
    return llama3_factors(model.theta, model.head_dim, *(float(model.scaling[key]) for key in _LLAMA3))


_LLAMA3 = "factor", *LLAMA3


def _scaling(given: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in (None, "default"):
        return {}
    wanted = {"linear": ("factor",), "llama3": _LLAMA3}.get(str(kind))
    if wanted is None:
        raise refusal(f"its rotary embedding is scaled as {str(kind)[:40]!r}")
    values = {**LLAMA3, **given}
    if not all(_is_positive(values.get(key)) for key in wanted):
        raise refusal("its rotary embedding's scaling is malformed")
    return {"rope_type": kind, **{key: values[key] for key in wanted}}


def _require_plain(config: Mapping[str, Any]) -> None:
    """Refuse what mlx-lm computes and llama.cpp's graph of the architecture does not."""
    if config.get("hidden_act", "silu") != "silu":
        raise refusal(f"its activation is {str(config['hidden_act'])[:40]!r}")
    if config.get("rope_traditional"):
        raise refusal("its rotary embedding is of the traditional kind")
    if config.get("model_file") is not None:
        raise refusal("it brings its own code (model_file)")
    if has_tensor_scales(config):
        raise refusal("it is in NVFP4 with a scale per tensor", "--as 16bit")
    layers = config.get("layer_types")
    if window := ignored_window(config):
        raise refusal(f"llama.cpp would ignore its sliding window of {window} tokens", _WINDOWED)
    if isinstance(layers, list) and set(map(str, layers)) - {"full_attention"}:
        raise refusal("some of its layers have a sliding window", _WINDOWED)


def refusal(why: str, hint: str | None = None) -> BadInputError:
    """Return the refusal of a model that is not written as GGUF."""
    return BadInputError(f"the model is not written as GGUF: {why}", hint=hint)


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise refusal(f"{key} of its config.json is {str(value)[:40]}")
    return value


def _real(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    value = default if value is None else value
    if not _is_positive(value):
        raise refusal(f"{key} of its config.json is {str(value)[:40]}")
    return float(value)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
