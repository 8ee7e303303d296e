"""Tiny random models of whatever architecture transformers has, saved by transformers itself.

Runs where torch and transformers are; `peft_peer.py` imports it.  Every rotary embedding gets a theta that no library has
as its default.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_KEYS = {
    0: ("num_kv_shared_layers", "pad_token_id", "zero_expert_num"),
    1: (
        "bos_token_id", "first_k_dense_replace", "mamba_n_groups", "moe_num_shared_experts",
        "n_group", "n_groups", "n_shared_experts", "num_shared_experts", "topk_group"
    ),
    2: (
        "eos_token_id", "index_n_heads", "linear_num_key_heads", "mamba_expand", "moe_k",
        "moe_topk", "n_layer", "num_experts_per_tok", "num_experts_per_token", "num_hidden_layers",
        "num_key_value_heads", "num_layers"
    ),
    4: (
        "linear_num_value_heads", "mamba_num_heads", "moe_num_experts", "n_head",
        "n_routed_experts", "num_attention_heads", "num_experts", "num_heads", "num_local_experts"
    ),
    8: (
        "hidden_size_per_layer_input", "mamba_dt_rank", "mamba_n_heads", "rotary_dim",
        "time_step_rank"
    ),
    16: (
        "global_head_dim", "head_dim", "index_head_dim", "linear_key_head_dim",
        "linear_value_head_dim", "mamba_d_head", "mamba_d_state", "mamba_head_dim",
        "qk_nope_head_dim", "qk_rope_head_dim", "ssm_state_size", "state_size", "v_head_dim"
    ),
    32: ("expert_ffn_hidden_size", "kv_lora_rank", "moe_intermediate_size", "q_lora_rank"),
    64: (
        "attention_chunk_size", "attention_window_size", "block_dim", "ffn_hidden_size",
        "hidden_size", "index_topk", "lru_width", "mamba_d_ssm", "n_embd",
        "shared_expert_intermediate_size", "shared_intermediate_size", "sliding_window"
    ),
    128: (
        "block_ff_dim", "dense_intermediate_size", "intermediate_size", "intermediate_size_mlp",
        "n_inner"
    ),
    320: ("vocab_size", "vocab_size_per_layer_input"),
    512: ("max_position_embeddings", "n_positions", "original_max_position_embeddings"),
}  # fmt: skip
SMALL = {key: value for value, keys in _KEYS.items() for key in keys}
"""Values of keys that an architecture has."""

_LATENT = {"num_key_value_heads": 4}
_LATENTS = (
    "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear", "longcat_flash", "minicpm3", "mistral4"
)  # fmt: skip
_LINEARS = ("olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next")
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": _LATENT
    | {
        "topk_method": "greedy",
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 777.0, "factor": 40.0, "beta_fast": 32, "beta_slow": 1,
            "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 64,
        },
    },
    "ernie4_5_moe": {"moe_layer_start_index": 1, "moe_layer_end_index": 1},
    "exaone4": {"sliding_window_pattern": "LG"},
    "falcon_h1": {"mamba_n_heads": 4},
    "gpt_bigcode": {"n_inner": 256},
    "gpt_neox": {"intermediate_size": 256},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "lfm2": _CONVOLUTION,
    "lfm2_moe": _CONVOLUTION | {"num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "minimax_m3_vl_text": {"rotary_dim": 8},
    "mistral3": {"tie_word_embeddings": False},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
    "recurrent_gemma": {
        "block_types": ["recurrent", "recurrent", "attention"],
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
    },
    **dict.fromkeys(_LATENTS, _LATENT),
    **dict.fromkeys(_LINEARS, _LINEAR),
}  # fmt: skip
"""What an architecture needs beside, or instead, to be small."""

TOWER = {
    **dict.fromkeys(("depth", "num_hidden_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 2),
    **dict.fromkeys(("embed_dim", "hidden_size", "image_size"), 32),
    **dict.fromkeys(("intermediate_size", "out_hidden_size"), 64),
    "num_channels": 3,
    "patch_size": 16,
}
_KEPT = ("A_log", "dt_bias", "e_score_correction", "recurrent_param")


def small_config(kind: str | type, scaling: dict[str, Any] | None = None) -> Any:
    """Return a small configuration of an architecture, with rotary embeddings that are nobody's default."""
    chosen: Any = CONFIG_MAPPING[kind] if isinstance(kind, str) else kind
    usual = chosen()
    known = usual.to_dict()
    values = {key: value for key, value in SMALL.items() if known.get(key) is not None}
    if "head_dim" in known:
        values["head_dim"] = 16
    if "qk_rope_head_dim" in known:
        values.pop("head_dim", None)
    own = OWN.get(chosen.model_type, {})
    if (layers := known.get("layer_types")) and "layer_types" not in own:
        kinds = list(dict.fromkeys(layers))
        values["layer_types"] = (kinds * 2)[: max(2, len(kinds))]
    if isinstance(known.get("rope_parameters"), dict):
        values["rope_parameters"] = _odd(known["rope_parameters"], chosen.model_type, scaling or {})
    for tower in ("vision_config", "audio_config"):
        if isinstance(known.get(tower), dict):
            values[tower] = {key: value for key, value in TOWER.items() if key in known[tower]}
            values[tower]["model_type"] = known[tower].get("model_type")
    if isinstance(known.get("text_config"), dict):
        values["text_config"] = small_config(type(usual.text_config), scaling).to_dict()
    values |= own
    if "layer_types" in values:
        values["num_hidden_layers"] = len(values["layer_types"])
    return chosen(**values)


def _odd(given: dict[str, Any], kind: str, scaling: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(value, dict) for value in given.values()):
        return {key: _odd(value, kind, {}) for key, value in given.items() if isinstance(value, dict)}
    odd = {**given, "rope_theta": 777.0 + float(given.get("rope_theta") or 0) / 1000, **scaling}
    if "mrope_section" in given or kind.startswith(("qwen2_vl", "qwen2_5_vl")):
        odd["mrope_section"] = [2, 3, 3]
    return odd


def make_model(kind: str, folder: str, scaling: dict[str, Any] | None = None) -> None:
    config = small_config(kind, scaling)
    torch.manual_seed(0)
    model = _auto(config).from_config(config).float()
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(part in name for part in _KEPT):
                continue
            if value.ndim >= 2:
                value.copy_(torch.randn(value.shape, generator=numbers) * (1.5 / value.shape[-1] ** 0.5))
            elif name.endswith("bias"):
                value.copy_(torch.randn(value.shape, generator=numbers) * 0.1)
            elif "norm" in name:
                value.add_(torch.randn(value.shape, generator=numbers) * 0.1)
    model.save_pretrained(folder)


def logits(folder: str, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    torch.set_num_threads(1)
    model = loader(folder).from_pretrained(folder, dtype=torch.float32).eval()
    model = getattr(model, "language_model", model)
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens)).logits.float().numpy()  # type: ignore[no-any-return]


def loader(folder: str) -> Any:
    return _auto(AutoConfig.from_pretrained(folder))


def _auto(config: Any) -> Any:
    text = not hasattr(config, "text_config") and type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if text else AutoModelForImageTextToText


def rotary(folder: str) -> dict[str, Any]:
    """Return what transformers makes of a configuration: rotary embeddings, of the text where it has one."""
    config = AutoConfig.from_pretrained(folder)
    found = getattr(getattr(config, "text_config", config), "rope_parameters", None) or {}
    # `type` is the older name of `rope_type`, and a factor of 1 is the default.
    plain = {"type": found.get("rope_type"), "partial_rotary_factor": 1.0}
    return {key: value for key, value in found.items() if key not in plain or value != plain[key]}


def kinds() -> list[str]:
    """Return every `model_type` that transformers has."""
    return list(CONFIG_MAPPING)
