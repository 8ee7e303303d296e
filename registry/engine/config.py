"""The files of a fused model beside its weights: `config.json` and the index as mlx-lm writes them, the rest copied.

Tokenizer files are copied byte for byte.  mlx-lm writes them anew through transformers, which can change how text is
cut into tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model[^/]*\.safetensors")
"""The weight files that mlx-lm loads."""

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
    """Tell from the names of a model's tensors whether it sees: then its `vision_config` belongs to its weights.

    transformers and mlx-vlm call a tower vision_tower, vision_model, visual, vision_encoder, vision_embed_tokens or vpm,
    what leads from it into the text a projector, connector, aligner, resampler or embed_vision.  A name that is not known
    here costs the model its eyes, one too many only an entry of `config.json`.
    """
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
    """Return `config.json` of a fused model, byte for byte what `mlx_lm.fuse` writes.

    Args:
        config: `config.json` of the base.
        generation: its `generation_config.json`, whose `eos_token_id` goes before that of `config`.
        quantization: how the weights are quantised, None if they are not, and never were.
        dequantized: they are not any more.
        keep_vision: keep `vision_config`, for models that keep their vision tower (`has_vision`).
    """
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
    """Return the index of the weight files, as `mlx_lm.fuse` writes it.

    Args:
        where: file of each tensor.
        size: bytes of all tensors.
        parameters: numbers in them, quantised ones counted unpacked.
    """
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
