"""The llama family in GGUF and in Hugging Face's layout: names and shapes of tensors, and the configuration.

Keys and names: gguf/constants.py of the `gguf` package and llama.cpp's convert_hf_to_gguf.py.  Settings that the
converted model would ignore are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusery.storage.errors import FormatError

from ..errors import BadInputError
from .gguf_header import GGUFHeader, TensorEntry

ARCHITECTURE = "llama"
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_REAL = 1e15
# Of `llama.`: mixtures of experts and the scalings of related families.
UNSUPPORTED_KEYS = ("expert_count", "attention.scale", "logit_scale", "residual_scale", "embedding_scale")
LINEAR = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
ROPE_FACTORS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}  # qwen3's


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The dimensions that the shapes of a model's tensors follow from."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool


@dataclass(frozen=True, slots=True)
class Llama(ModelSizes):
    """The dimensions of one model, and where it has biases."""

    attention_bias: bool
    mlp_bias: bool


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor of a model, by its name in GGUF and in Hugging Face's layout."""

    source: str
    name: str
    shape: tuple[int, ...]
    head: int | None  # width of a head whose rows llama.cpp interleaves for its rotary embedding


def tensor_places(
    sizes: ModelSizes,
    has_bias: Callable[[TensorPlace], bool],
    *,
    head_norms: bool = False,
    interleaved: bool = True,
) -> Iterator[TensorPlace]:
    """Yield the tensors of a model, in the order in which they are written; `has_bias` is asked of each linear layer."""
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    shapes = {
        "attn_q": (queries, sizes.hidden),
        "attn_k": (keys, sizes.hidden),
        "attn_v": (keys, sizes.hidden),
        "attn_output": (sizes.hidden, queries),
        "ffn_gate": (sizes.intermediate, sizes.hidden),
        "ffn_up": (sizes.intermediate, sizes.hidden),
        "ffn_down": (sizes.hidden, sizes.intermediate),
        **dict.fromkeys(NORMS, (sizes.hidden,)),
        **dict.fromkeys(HEAD_NORMS, (sizes.head_dim,)),
    }
    matrix = (sizes.vocab, sizes.hidden)
    yield TensorPlace("token_embd.weight", "model.embed_tokens.weight", matrix, None)
    for layer in range(sizes.layers):
        for source, name in {**NORMS, **(HEAD_NORMS if head_norms else {}), **LINEAR}.items():
            head = sizes.head_dim if interleaved and source in ("attn_q", "attn_k") else None
            old, new = f"blk.{layer}.{source}", f"model.layers.{layer}.{name}"
            yield TensorPlace(f"{old}.weight", f"{new}.weight", shapes[source], head)
            if source in LINEAR and has_bias(
                bias := TensorPlace(f"{old}.bias", f"{new}.bias", shapes[source][:1], head)
            ):
                yield bias
    yield TensorPlace("output_norm.weight", "model.norm.weight", (sizes.hidden,), None)
    if not sizes.tied:
        yield TensorPlace("output.weight", "lm_head.weight", matrix, None)


def llama3_factors(
    theta: float, head_dim: int, factor: float, low: float, high: float, original: float
) -> np.ndarray[Any, Any]:
    """Return what Llama 3.1's rotary scaling divides each frequency by: float32 [head_dim / 2]."""
    # The formula is that of `generate_extra_tensors` in llama.cpp's conversion/llama.py, in float32 as there.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    wavelengths = 2 * math.pi * (np.float64(theta) ** exponents.astype(np.float64))
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    short, long = wavelengths < original / high, wavelengths > original / low
    return np.where(short, 1.0, np.where(long, factor, between)).astype(np.float32)


def read_llama(header: GGUFHeader) -> Llama:
    """Return the model's dimensions."""
    architecture = header.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        hint = "register the model's Hugging Face or MLX folder instead"
        raise BadInputError(f"GGUF architecture: {str(architecture)[:40]!r} (allowed: 'llama')", hint=hint)
    for key in UNSUPPORTED_KEYS:
        if header.metadata.get(f"llama.{key}"):
            raise BadInputError(f"this GGUF file uses llama.{key}, which is not converted")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError("this GGUF file has no two-dimensional token_embd.weight")
    heads, hidden = _whole(header, "attention.head_count"), _whole(header, "embedding_length")
    head_dim = _whole(header, "attention.key_length", hidden // heads)
    model = Llama(
        layers=_whole(header, "block_count", limit=MAX_LAYERS),
        hidden=hidden,
        intermediate=_whole(header, "feed_forward_length"),
        heads=heads,
        kv_heads=_whole(header, "attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab=_whole(header, "vocab_size", embedding.shape[0]),
        tied="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_q.bias" in header.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in header.tensors,
    )
    if heads % model.kv_heads or head_dim % 2:
        raise FormatError(f"{heads} heads of width {head_dim} do not fit {model.kv_heads} key heads")
    for key in ("attention.value_length", "rope.dimension_count"):
        if _whole(header, key, head_dim) != head_dim:
            raise BadInputError(f"llama.{key} is not the width of a head, which is not converted")
    return model


def model_config(
    header: GGUFHeader, model: Llama, rope_factors: np.ndarray[Any, Any] | None
) -> Mapping[str, Any]:
    """Return config.json without the token ids."""
    base = _real(header, "rope.freq_base", 10000.0)
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": model.attention_bias,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "max_position_embeddings": _whole(header, "context_length", limit=1 << 30),
        "mlp_bias": model.mlp_bias,
        "model_type": ARCHITECTURE,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": _real(header, "attention.layer_norm_rms_epsilon", None),
        "rope_theta": base,
        "tie_word_embeddings": model.tied,
        "torch_dtype": "bfloat16",
        "vocab_size": model.vocab,
    }
    scaling = _rope_scaling(header, model, base, rope_factors)
    return {**config, "rope_scaling": scaling} if scaling else config


def placements(header: GGUFHeader, model: Llama) -> list[tuple[TensorPlace, TensorEntry]]:
    """Return every tensor of the output with its entry, in the order in which it is written."""

    def has_bias(bias: TensorPlace) -> bool:
        return model.attention_bias if ".self_attn." in bias.name else model.mlp_bias

    result = []
    for place in tensor_places(model, has_bias):
        entry = header.tensors.get(place.source)
        if entry is None:
            raise FormatError(f"this GGUF file has no tensor {place.source}")
        if entry.shape != place.shape:
            raise FormatError(f"shape of {place.source}: {list(entry.shape)} (expected: {list(place.shape)})")
        result.append((place, entry))
    expected_names = {place.source for place, _ in result} | {ROPE_FACTORS}
    if extra := [name for name in header.tensors if name not in expected_names]:
        raise BadInputError(f"this GGUF file has a tensor {extra[0][:80]!r}, for which a llama has no place")
    return result


def _rope_scaling(
    header: GGUFHeader, model: Llama, base: float, factors: np.ndarray[Any, Any] | None
) -> Mapping[str, Any] | None:
    kind = header.metadata.get("llama.rope.scaling.type", "none")
    if kind not in ("none", "linear") or (factors is not None and kind == "linear"):
        also = "" if factors is None else f" beside {ROPE_FACTORS}"
        raise BadInputError(f"rotary scaling of type {str(kind)[:40]!r}{also} is not converted")
    if factors is None:
        return (
            {"rope_type": kind, "factor": _real(header, "rope.scaling.factor", None)}
            if kind != "none"
            else None
        )
    # Find the settings of Llama 3.1's rotary scaling that give the factors; GGUF stores only the outcome.
    factor = float(factors.max())
    expected = llama3_factors(base, model.head_dim, factor, *LLAMA3.values())
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise BadInputError(f"{ROPE_FACTORS} is not the rotary scaling of Llama 3.1 (no other is converted)")
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def _whole(header: GGUFHeader, key: str, default: int | None = None, limit: int = MAX_WIDTH) -> int:
    value = header.metadata.get(f"llama.{key}", default)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]  # One number per layer, all the same.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise FormatError(f"llama.{key} is {str(value)[:40]}, and not a whole number from 1 to {limit}")
    return value


def _real(header: GGUFHeader, key: str, default: float | None) -> float:
    value = header.metadata.get(f"llama.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_REAL:
        raise FormatError(f"llama.{key} is {str(value)[:40]}, and not a positive number")
    # Stored as float32, 1e-5 reads back as 9.99999974e-06: the shortest decimal is the number that was meant.
    return float(str(np.float32(value)))
