"""A tiny llama as GGUF, written by the `gguf` package from known weights.  Import as `gguf_llama`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensor_files

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

Array = np.ndarray[Any, Any]

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2, 64, 96, 4, 2, 16, 400
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>\n{% endfor %}"
MODULES = {
    "attn_q": ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
    "attn_k": ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
    "ffn_up": ("mlp.up_proj", INTERMEDIATE, HIDDEN),
    "ffn_down": ("mlp.down_proj", HIDDEN, INTERMEDIATE),
}
PROSE = """COAST-101 opens in 2026, room 31415, at 9:30.  Don't be late; we'll start   on time!
The harbour's robots weld 1,234 plates a day, and x += 12345 * (y - 678) // 90.
\tTabs, \r\nnew lines\n\n\nand trailing blanks   \nÅse's café serves naïve crème brûlée — “superb”, 漢字かな交じり, русский текст.
"""


def bf16_values(shape: tuple[int, ...], seed: int) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.05
    return (values.view(np.uint32) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def hf_weights(*, tied: bool = True, bias: bool = False) -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (HIDDEN,)
        for name, rows, columns in MODULES.values():
            shapes[f"model.layers.{layer}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"model.layers.{layer}.{name}.bias"] = (rows,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    return {name: bf16_values(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def llama_cpp_rows(weight: Array, heads: int) -> Array:
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def gguf_tensors(weights: Mapping[str, Array]) -> dict[str, Array]:
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for layer in range(LAYERS):
        names[f"model.layers.{layer}.input_layernorm"] = f"blk.{layer}.attn_norm"
        names[f"model.layers.{layer}.post_attention_layernorm"] = f"blk.{layer}.ffn_norm"
        for source, (name, _, _) in MODULES.items():
            names[f"model.layers.{layer}.{name}"] = f"blk.{layer}.{source}"
    result = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(names[module].rpartition(".")[2])
        result[f"{names[module]}.{kind}"] = llama_cpp_rows(value, heads) if heads else value
    return result


@cache
def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE that was trained across word borders, so that every cut matters."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    trained.train_from_iterator([*PROSE.splitlines(keepends=True), "12345 123 234 don't we'll"] * 3, trainer)
    tokens = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    merges = json.loads(trained.to_str())["model"]["merges"]
    # The last token becomes a word that no merges lead to: Llama 3 takes it all the same.
    return [*tokens[:-1], "zqxj"], [" ".join(pair) for pair in merges[:-1]]


METADATA: dict[str, Any] = {
    "llama.block_count": LAYERS, "llama.context_length": 512, "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INTERMEDIATE, "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 50000.0, "llama.rope.dimension_count": HEAD_DIM, "llama.vocab_size": VOCAB,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2, "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}  # fmt: skip


def write_gguf(
    path: Path,
    tensors: Mapping[str, Array | tuple[Array, Any]] | None = None,
    *,
    architecture: str = "llama",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a GGUF file, of the tied llama if no tensors are given; a value of None in `metadata` leaves the key out."""
    tokens, merges = vocabulary()
    entries: dict[str, Any] = METADATA | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
    }
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (entries | dict(metadata or {})).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, tensor in (gguf_tensors(hf_weights()) if tensors is None else tensors).items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_bf16(folder: Path) -> dict[str, Array]:
    raw = tensor_files.load_raw(folder / "model.safetensors")
    assert {dtype for dtype, _ in raw.values()} == {"BF16"}
    return {name: (value.astype(np.uint32) << 16).view(np.float32) for name, (_, value) in raw.items()}
