"""The files of a fused model beside its weights: `config.json` and the index as mlx-lm writes them; the rest is copied."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model[^/]*\.safetensors")  # The weight files that mlx-lm loads
_COPIED = re.compile(
    r"tokenizer[\w.-]*\.(json|model|txt|tiktoken|jinja)"
    r"|[\w.-]+\.(jinja|tiktoken)"
    r"|additional_chat_templates/[\w.-]+\.jinja"
    r"|vocab\.[\w-]+"
    r"|(added_tokens|special_tokens_map|generation_config|chat_template|([\w-]+_)?(pre)?processor_config)\.json"
    r"|merges\.txt"
    r"|(LICENSE|LICENCE|NOTICE)[\w.-]*"
)
_VISION = re.compile(
    r"vision|visual|image|multi_?modal|^(vpm|vit|vqmodel|resampler|connector|aligner|mm_projector|patch_merge_mlp)$"
)
_CODE = re.compile(r".*\.(py|pyc|so|sh)", re.IGNORECASE)


def copied_names(names: Iterable[str]) -> list[str]:
    """Return which of a base's files belong into a fused model unchanged, sorted; never code."""
    return sorted(name for name in names if _COPIED.fullmatch(name) and not _CODE.fullmatch(name))


def has_vision(tensors: Iterable[str]) -> bool:
    """Tell from the names of a model's tensors whether it sees: then its `vision_config` belongs to its weights."""
    # transformers and mlx-vlm call a tower vision_tower, vision_model, visual, vision_encoder, vision_embed_tokens or
    # vpm, what leads from it into the text a projector, connector, aligner, resampler or embed_vision. A name that is
    # not known here costs the model its eyes, one too many only an entry of `config.json`.
    return any(_VISION.search(part) for name in tensors for part in name.split("."))


def weight_names(names: Iterable[str]) -> list[str]:
    """Return which of a base's files are weights, sorted."""
    return sorted(name for name in names if WEIGHTS.fullmatch(name))


def fused_config(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    *,
    quantization: Mapping[str, Any] | None,
    dequantized: bool,
    keep_vision: bool,
) -> bytes:
    """Return `config.json` of a fused model, byte for byte what `mlx_lm.fuse` writes."""
    result = {key: _with_floats(value) for key, value in config.items()}
    if eos := generation.get("eos_token_id"):
        result["eos_token_id"] = eos
    result.pop("_name_or_path", None)
    if not keep_vision:
        result.pop("vision_config", None)
    if dequantized:
        result.pop("quantization", None)
        result.pop("quantization_config", None)
    elif quantization is not None:
        result["quantization"] = result["quantization_config"] = _with_floats(quantization)
    return json.dumps(_with_tags(dict(sorted(result.items()))), indent=4).encode()


def weight_index(where: Mapping[str, str], size: int, parameters: int) -> bytes:
    """Return the index of the weight files, as `mlx_lm.fuse` writes it."""
    metadata = {"total_size": size, "total_parameters": parameters}
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(where.items()))}, indent=4).encode()


# transformers writes non-finite numbers as {"__float__": "Infinity"}, since JSON has no form for them.
_TAG = "__float__"
_TAGGED = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def _with_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_TAG} and value[_TAG] in _TAGGED:
            return _TAGGED[value[_TAG]]
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _with_tags(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {key: _with_tags(item) for key, item in value.items()}
    return [_with_tags(item) for item in value] if isinstance(value, list | tuple) else value


_COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_SIZES = (
    *("hidden_size", "intermediate_size", "n_embd", "d_model", "moe_intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "n_heads", "n_head", "head_dim"),
    *("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"),
)
# Whole numbers of a configuration and the most that they can be, far above any model there is.
MOST: Mapping[str, int] = {
    **dict.fromkeys(_COUNTS, 10_000),
    **dict.fromkeys(_SIZES, 1 << 24),
    "vocab_size": 1 << 28,
    "max_position_embeddings": (1 << 31) - 1,
}
_AT_LEAST_ONE = frozenset({"num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"})


def absurdity(config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first size that cannot be one, in a few words; None where nothing is."""
    # Sizes are checked before anything is counted, allocated or built by them. A size may be left out, null or, where
    # layers differ, a list of sizes.
    for name, most in MOST.items():
        least = 1 if name in _AT_LEAST_ONE else 0
        values = config.get(name)
        for value in values if isinstance(values, list) else [values]:
            if value is None:
                continue
            number = int(value) if isinstance(value, float) and value.is_integer() else value
            if type(number) is not int or not least <= number <= most:
                return f"{name} is {repr(value)[:40]}, and not a whole number from {least} to {most:,}"
    for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps", "rope_theta"):
        # Models compute in float32, which knows no larger ones.
        if (value := config.get(name)) is not None and not (type(value) in (int, float) and 0 < value < 3e38):
            return f"{name} is {repr(value)[:40]}, and not a number above 0"
    quantization = config.get("quantization")
    if quantization is not None and not isinstance(quantization, Mapping):
        return f"quantization is {repr(quantization)[:40]}, and not an object"
    for part in ("text_config", "vision_config"):
        if isinstance(inner := config.get(part), Mapping) and (problem := absurdity(inner)):
            return f"{part}: {problem}"
    return None
