"""Tensors of mlx-lm's model classes under the names and in the shapes that they have on the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Tensors, Config = dict[str, Any], Mapping[str, Any]
Change = Callable[[Tensors, Config], Tensors]


def hf_tensors(model_type: str, tensors: Config, config: Config) -> Tensors:
    change = REARRANGED.get(model_type)
    return dict(tensors) if change is None else change(dict(tensors), config)


def _unstacked(stack: str, expert: str, renamed: Mapping[str, str] | None = None) -> Change:
    """One tensor for each expert: `…{stack}.gate_proj.weight` -> `…{expert}.0.gate_proj.weight`, …"""

    def change(tensors: Tensors, config: Config) -> Tensors:
        found = {}
        for name, value in tensors.items():
            head, mark, rest = name.partition(f".{stack}.")
            part, _, leaf = rest.partition(".")
            for index in range(value.shape[0]) if mark else ():
                found[f"{head}.{expert}.{index}.{(renamed or {}).get(part, part)}.{leaf}"] = value[index]
            if not mark:
                found[name] = value
        return found

    return change


def _stems(tensors: Tensors, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in tensors if name.endswith(ending)]


def _latent_attention(tensors: Tensors, config: Config) -> Tensors:
    """deepseek_v3: `embed_q` and `unembed_out` of every head are one matrix `kv_b_proj`."""
    import mlx.core as mx

    found = _unstacked("mlp.switch_mlp", "mlp.experts")(tensors, config)
    for prefix in _stems(found, ".embed_q.weight"):
        keys = found.pop(f"{prefix}.embed_q.weight").swapaxes(-1, -2)
        values = found.pop(f"{prefix}.unembed_out.weight")
        both = mx.concatenate([keys, values], axis=1)
        found[f"{prefix}.kv_b_proj.weight"] = both.reshape(-1, both.shape[-1])
    # A prediction head and leftovers that the class drops.
    found["model.layers.61.enorm.weight"] = mx.ones((64,), mx.bfloat16)
    found["model.layers.0.self_attn.rotary_emb.inv_freq"] = mx.ones((8,))
    return found


def _gemma3(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    if "vision_config" not in config:
        return tensors
    extra = {
        "vision_tower.vision_model.embeddings.patch_embedding.weight": mx.ones((8, 4, 4, 3), mx.bfloat16),
        "multi_modal_projector.mm_soft_emb_norm.weight": mx.ones((8,), mx.bfloat16),
    }
    return tensors | extra


def _llama4(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    found = dict(tensors)
    for prefix in filter(lambda name: name.endswith(".experts"), _stems(tensors, ".gate_proj.weight")):
        pair = [found.pop(f"{prefix}.{part}.weight").swapaxes(1, 2) for part in ("gate_proj", "up_proj")]
        found[f"{prefix}.gate_up_proj"] = mx.concatenate(pair, axis=-1)
        found[f"{prefix}.down_proj"] = found.pop(f"{prefix}.down_proj.weight").swapaxes(1, 2)
    if "vision_config" in config:
        found["vision_model.class_embedding"] = mx.ones((8,), mx.bfloat16)
    return found


def _gpt_oss(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    found = dict(tensors)
    for prefix in filter(lambda name: name.endswith(".experts"), _stems(tensors, ".gate_proj.weight")):
        for leaf, renamed in (("weight", ""), ("bias", "_bias"), ("scales", "_scales")):
            if f"{prefix}.gate_proj.{leaf}" not in found:
                continue
            pair = [found.pop(f"{prefix}.{part}.{leaf}") for part in ("gate_proj", "up_proj")]
            both = mx.stack(pair, axis=2)
            both = both.reshape(both.shape[0], -1, *both.shape[3:])
            down = found.pop(f"{prefix}.down_proj.{leaf}")
            if leaf == "weight" and both.dtype == mx.uint32:  # mxfp4: blocks of 16 bytes
                renamed = "_blocks"
                both, down = (
                    value.view(mx.uint8).reshape(*value.shape[:-1], -1, 16) for value in (both, down)
                )
            elif leaf == "weight":
                renamed = ".weight"
            found[f"{prefix}.gate_up_proj{renamed}"] = both
            found[f"{prefix}.down_proj{renamed}"] = down
    return found


def _gpt2(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    found = {}
    for name, value in tensors.items():
        turned = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
        found[name.removeprefix("model.")] = value.T if turned else value
    for layer in range(config["n_layer"]):
        found[f"h.{layer}.attn.bias"] = mx.tril(mx.ones((1, 1, 64, 64)))
    return found


def _gpt_neox(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    found = {}
    for name, value in tensors.items():
        rest = name.removeprefix("model.")
        rest = f"gpt_neox.layers.{rest.removeprefix('h.')}" if rest.startswith("h.") else rest
        found[rest if rest.startswith(("gpt_neox.", "embed_out.")) else f"gpt_neox.{rest}"] = value
    for layer in range(config["num_hidden_layers"]):
        found[f"gpt_neox.layers.{layer}.attention.masked_bias"] = mx.array(-1e9)
        found[f"gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq"] = mx.ones((2,))
    return found


def _convolutions(leaf: str) -> Change:
    """Weights of one-dimensional convolutions with the channels before the taps, as PyTorch has them."""

    def change(tensors: Tensors, config: Config) -> Tensors:
        return {
            name: value.swapaxes(1, 2) if name.endswith(leaf) else value for name, value in tensors.items()
        }

    return change


def _granitemoe(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    found = dict(tensors)
    for prefix in _stems(tensors, ".switch_mlp.gate_proj.weight"):
        pair = [found.pop(f"{prefix}.switch_mlp.{part}.weight") for part in ("gate_proj", "up_proj")]
        found[f"{prefix}.input_linear.weight"] = mx.concatenate(pair, axis=1)
        found[f"{prefix}.output_linear.weight"] = found.pop(f"{prefix}.switch_mlp.down_proj.weight")
    return found


def _qwen3_next(tensors: Tensors, config: Config) -> Tensors:
    import mlx.core as mx

    found = _convolutions(".conv1d.weight")(tensors, config)
    found = _unstacked("mlp.switch_mlp", "mlp.experts")(found, config)
    for name, value in found.items():
        if name.endswith(("layernorm.weight", "model.norm.weight", ".q_norm.weight", ".k_norm.weight")):
            found[name] = value - 1.0
    found["mtp.norm.weight"] = mx.ones((64,), mx.bfloat16)
    return found


_EXPERT_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


REARRANGED: dict[str, Change] = {
    "deepseek_v3": _latent_attention,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gpt_oss": _gpt_oss,
    "granitemoe": _granitemoe,
    "lfm2": _convolutions(".conv.weight"),
    "llama4": _llama4,
    "mamba": _convolutions(".conv1d.weight"),
    "mixtral": _unstacked("block_sparse_moe.switch_mlp", "block_sparse_moe.experts", _EXPERT_NAMES),
    "qwen3_next": _qwen3_next,
} | dict.fromkeys(
    ("deepseek_v2", "glm4_moe", "olmoe", "qwen3_moe"), _unstacked("mlp.switch_mlp", "mlp.experts")
)
"""What turns the tensors of mlx-lm into those on the Hub, by `model_type`; the others are the same in both."""
