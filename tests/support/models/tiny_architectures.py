"""Tiny random bases of many architectures, written through mlx-lm's own model classes.

`make_architecture` writes a base as `mlx_lm.convert` does (names are module names, `{"format": "mlx"}`) or as it lies
on the Hub (`layout="hf"`: one tensor for each expert, fused projections, transposed convolutions, other prefixes).
Needs mlx-lm.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tiny_models
from hub_layouts import REARRANGED, hf_tensors  # noqa: F401

Layout = Literal["mlx", "hf"]

_DENSE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 320, "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}  # fmt: skip
_HEADS = {"head_dim": 16}
_UNTIED = {"tie_word_embeddings": False}
_FEW = {"num_local_experts": 4, "num_experts_per_tok": 2}
_EXPERTS: dict[str, Any] = _DENSE | {
    "moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
}  # fmt: skip
_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": []}
_WINDOW = {"sliding_window": 64, "sliding_window_pattern": 2}
_DEEPSEEK: dict[str, Any] = _EXPERTS | {
    "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32,
    "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "routed_scaling_factor": 1.0,
}  # fmt: skip
_YARN = {
    "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_LLAMA4_TEXT: dict[str, Any] = _DENSE | _HEADS | {
    "model_type": "llama4_text", "attention_bias": False, "attention_chunk_size": 8, "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 128, "num_experts_per_tok": 1, "num_local_experts": 4, "rope_scaling": None,
    "use_qk_norm": True,
}  # fmt: skip
_GEMMA3_TEXT: dict[str, Any] = _DENSE | _WINDOW | {"model_type": "gemma3_text", "head_dim": 32}
_GRANITE: dict[str, Any] = _DENSE | {
    "logits_scaling": 1.0, "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
    "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
_LINEAR_ATTENTION: dict[str, Any] = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 3, "partial_rotary_factor": 0.5, "head_dim": 32, "full_attention_interval": 2,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "afm7": {
        "vocab_size": 320, "hidden_dim": 64, "num_layers": 4, "num_kv_reuse_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "hidden_dim_scale_factor": 2.0,
    },
    "baichuan_m1": _DENSE | _UNTIED | {
        "conv_window": 2, "sliding_window": 64, "sliding_window_layers": [0], "num_swa_attention_heads": 4,
        "num_swa_key_value_heads": 2,
    },
    "cohere2": _DENSE | _HEADS | _WINDOW,
    "deepseek_v2": _DEEPSEEK | {"rope_scaling": _YARN},
    "deepseek_v3": _DEEPSEEK,
    **dict.fromkeys(("gemma", "gemma2"), _DENSE | _HEADS),
    "gemma3": {"text_config": _GEMMA3_TEXT, "vocab_size": 320},
    "gemma3_text": _GEMMA3_TEXT,
    "glm4_moe": _DEEPSEEK | _HEADS | _UNTIED | {
        "rope_scaling": None, "use_qk_norm": True, "attention_bias": False, "partial_rotary_factor": 0.5,
    },
    "gpt2": {
        "n_ctx": 64, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 64, "layer_norm_epsilon": 1e-5,
        "vocab_size": 320,
    },
    "gpt_neox": _DENSE | {"layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.25},
    "gpt_oss": _DENSE | _HEADS | _FEW | {
        "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"],
    },
    "granite": _GRANITE,
    "granitemoe": _GRANITE | _FEW,
    "lfm2": _DENSE | {
        "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 128,
        "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    },
    "llama4": {"text_config": _LLAMA4_TEXT},
    "mamba": {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "state_size": 16, "num_hidden_layers": 2,
        "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 32,
    },
    **dict.fromkeys(("llama", "mistral", "phi3", "qwen2", "starcoder2"), _DENSE),
    "mixtral": _DENSE | _FEW,
    "olmo2": _DENSE | {"attention_bias": False},
    "olmoe": _EXPERTS,
    "qwen3": _DENSE | _HEADS | _UNTIED,
    "qwen3_moe": _EXPERTS | _HEADS | _UNTIED | _SPARSE,
    "qwen3_next": _EXPERTS | _LINEAR_ATTENTION | _SPARSE | {"shared_expert_intermediate_size": 64},
    "stablelm": _DENSE | {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "use_qkv_bias": True},
}  # fmt: skip
"""Tiny configurations by `model_type`.  Widths are multiples of 32, so that groups of 16 and 32 fit everywhere."""


def make_architecture(
    folder: Path,
    model_type: str,
    *,
    dtype: str = "bfloat16",
    bits: int | None = None,
    group_size: int = 32,
    mode: str = "affine",
    seed: int = 0,
    layout: Layout = "mlx",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a random base with a working tokenizer, and return its folder."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model

    settings = {"model_type": model_type, "torch_dtype": dtype, **ARCHITECTURES[model_type], **(config or {})}
    model = _random_model(settings, getattr(mx, dtype), seed)
    if bits is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            model, settings = quantize_model(model, settings, group_size, bits, mode)
    tensors: dict[str, Any] = dict(tree_flatten(model.parameters()))
    if layout == "hf":
        tensors = hf_tensors(model_type, tensors, settings)
    write_base(folder, tensors, settings, "mlx" if layout == "mlx" else "pt")
    return folder


def write_base(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any], form: str) -> None:
    import mlx.core as mx

    folder.mkdir(parents=True, exist_ok=True)
    tiny_models.make_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tensors), metadata={"format": form})


def _random_model(config: Mapping[str, Any], dtype: Any, seed: int) -> Any:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    model_class, arguments = _get_classes(dict(config))
    model = model_class(arguments.from_dict(dict(config)))
    random = np.random.default_rng(seed)
    numbers = {}
    for name, value in sorted(tree_flatten(model.parameters())):
        if not mx.issubdtype(value.dtype, mx.floating):
            numbers[name] = value
            continue
        drawn = random.standard_normal(value.shape, dtype=np.float32)
        if value.ndim >= 2:
            drawn /= math.sqrt(value.shape[-1])
        else:
            drawn = drawn / 10 + (0 if name.endswith("bias") else 1)
        numbers[name] = mx.array(drawn).astype(dtype)
    model.load_weights(list(numbers.items()))
    return model
