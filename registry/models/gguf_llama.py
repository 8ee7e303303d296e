"""A llama in GGUF's words, said in Hugging Face's: its configuration and its tensors' names and shapes.

Keys and names: gguf/constants.py of the `gguf` package and llama.cpp's convert_hf_to_gguf.py.  Everything the
converted model would compute differently is refused here rather than dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusery.storage.errors import FormatError

from ..errors import BadInputError
from .gguf_header import GGUFHeader, TensorEntry, Value

ARCHITECTURE = "llama"
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_REAL = 1e15
UNSUPPORTED_KEYS = ("expert_count", "attention.scale", "logit_scale", "residual_scale", "embedding_scale")
"""Of `llama.`: mixtures of experts and the scalings of related families."""
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


@dataclass(frozen=True, slots=True)
class Llama:
    """The dimensions of one model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    attention_bias: bool
    mlp_bias: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """One tensor of the output.

    Attributes:
        permuted_head: the width of a head whose rows llama.cpp interleaved for its rotary embedding, else None.
    """

    name: str
    shape: tuple[int, ...]
    entry: TensorEntry
    permuted_head: int | None = None


def read_llama(header: GGUFHeader) -> Llama:
    """Return the model's dimensions."""
    architecture = header.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise BadInputError(
            f"this GGUF file holds a model of architecture {str(architecture)[:40]!r}, and only 'llama' is converted",
            hint="register the model's Hugging Face or MLX folder instead",
        )
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
) -> dict[str, Any]:
    """Return config.json without the token ids."""
    config: dict[str, Any] = {
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
        "rope_theta": _real(header, "rope.freq_base", 10000.0),
        "tie_word_embeddings": model.tied,
        "torch_dtype": "bfloat16",
        "vocab_size": model.vocab,
    }
    scaling = _rope_scaling(header, model, config["rope_theta"], rope_factors)
    return {**config, "rope_scaling": scaling} if scaling else config


def placements(header: GGUFHeader, model: Llama) -> list[Placement]:
    """Return every tensor of the output, in the order in which it is written."""
    result = []
    for source, name, shape, head in _expected(model):
        entry = header.tensors.get(source)
        if entry is None:
            raise FormatError(f"this GGUF file has no tensor {source}")
        if entry.shape != shape:
            raise FormatError(f"{source} has the shape {list(entry.shape)}, and {list(shape)} was expected")
        result.append(Placement(name, shape, entry, head))
    known = {placement.entry.name for placement in result} | {ROPE_FACTORS}
    if extra := [name for name in header.tensors if name not in known]:
        raise BadInputError(f"this GGUF file has a tensor {extra[0][:80]!r}, for which a llama has no place")
    return result


def _expected(model: Llama) -> Iterator[tuple[str, str, tuple[int, ...], int | None]]:
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sizes = {
        "attn_q": (queries, model.hidden),
        "attn_k": (keys, model.hidden),
        "attn_v": (keys, model.hidden),
        "attn_output": (model.hidden, queries),
        "ffn_gate": (model.intermediate, model.hidden),
        "ffn_up": (model.intermediate, model.hidden),
        "ffn_down": (model.hidden, model.intermediate),
    }
    yield "token_embd.weight", "model.embed_tokens.weight", (model.vocab, model.hidden), None
    for layer in range(model.layers):
        old, new = f"blk.{layer}", f"model.layers.{layer}"
        for source, name in NORMS.items():
            yield f"{old}.{source}.weight", f"{new}.{name}.weight", (model.hidden,), None
        for source, name in LINEAR.items():
            head = model.head_dim if source in ("attn_q", "attn_k") else None
            yield f"{old}.{source}.weight", f"{new}.{name}.weight", sizes[source], head
            if model.attention_bias if source.startswith("attn") else model.mlp_bias:
                yield f"{old}.{source}.bias", f"{new}.{name}.bias", sizes[source][:1], head
    yield "output_norm.weight", "model.norm.weight", (model.hidden,), None
    if not model.tied:
        yield "output.weight", "lm_head.weight", (model.vocab, model.hidden), None


def _rope_scaling(
    header: GGUFHeader, model: Llama, base: float, factors: np.ndarray[Any, Any] | None
) -> dict[str, Any] | None:
    kind = header.metadata.get("llama.rope.scaling.type", "none")
    if factors is not None:
        if kind != "none":
            raise BadInputError(
                "this GGUF file scales its rotary embedding in two ways, which is not converted"
            )
        return _llama3_scaling(model, base, factors)
    if kind == "none":
        return None
    if kind != "linear":
        raise BadInputError(f"rotary scaling of type {str(kind)[:40]!r} is not converted")
    return {"rope_type": kind, "factor": _real(header, "rope.scaling.factor", None)}


def _llama3_scaling(model: Llama, base: float, factors: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Find the settings of Llama 3.1's rotary scaling that give `factors`; GGUF stores only the outcome."""
    factor = float(factors.max())
    settings = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    wavelengths = 2 * math.pi * base ** (np.arange(0, model.head_dim, 2) / model.head_dim)
    smooth = np.clip((8192 / wavelengths - 1.0) / 3.0, 0.0, 1.0)
    expected = 1.0 / ((1 - smooth) / factor + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise BadInputError(
            f"{ROPE_FACTORS} is not the rotary scaling of Llama 3.1, and no other is converted"
        )
    return settings


def _value(header: GGUFHeader, key: str, default: Value | None) -> Value:
    value = header.metadata.get(f"llama.{key}", default)
    if value is None:
        raise FormatError(f"this GGUF file does not say llama.{key}")
    return value


def _whole(header: GGUFHeader, key: str, default: int | None = None, limit: int = MAX_WIDTH) -> int:
    value = _value(header, key, default)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]  # One number per layer, all the same.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise FormatError(f"llama.{key} is {str(value)[:40]}, and not a whole number from 1 to {limit}")
    return value


def _real(header: GGUFHeader, key: str, default: float | None) -> float:
    value = _value(header, key, default)
    if isinstance(value, bool | str | list) or not 0 < value < MAX_REAL:
        raise FormatError(f"llama.{key} is {str(value)[:40]}, and not a positive number")
    # Stored as float32, 1e-5 reads back as 9.99999974e-06: the shortest decimal is the number that was meant.
    return float(str(np.float32(value)))
