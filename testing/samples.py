"""A tiny random model, adapters for it as mlx-lm writes them, and sources of bundles made of both; NumPy alone is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fusery.registry.adapters import CONFIG, WEIGHTS
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.render import Form, render
from fusery.registry.admission.candidate import BaseFacts, Candidate
from fusery.registry.admission.submission import Submission
from fusery.registry.bundles.source import BundledAdapter, BundleSource, Files
from fusery.registry.models.architecture import read_architecture

NAME = "sample_v1_20260115"
"""The name of the sources of bundles."""

_LAYERS, _HIDDEN, _INNER, _VOCABULARY = 2, 64, 128, 320
_SHAPES = {
    "self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "self_attn.k_proj": (_HIDDEN // 2, _HIDDEN),
    "self_attn.v_proj": (_HIDDEN // 2, _HIDDEN),
    "self_attn.o_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (_INNER, _HIDDEN),
    "mlp.up_proj": (_INNER, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _INNER),
}


def make_base(folder: Path) -> Path:
    """Write a model of the llama family with two layers, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return numbers.normal(0, 0.05, (rows, columns)).astype(np.float16)

    ones = np.ones(_HIDDEN, np.float16)
    tensors = {"model.embed_tokens.weight": matrix(_VOCABULARY, _HIDDEN), "model.norm.weight": ones}
    tensors["lm_head.weight"] = matrix(_VOCABULARY, _HIDDEN)
    for layer in range(_LAYERS):
        for name, shape in _SHAPES.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = ones
    save_file(tensors, folder / "model.safetensors", {"format": "mlx"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": _HIDDEN // 4,
        "vocab_size": _VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()), encoding="utf-8")
    template = {"chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(template), encoding="utf-8")
    return folder


def _tokenizer() -> dict[str, object]:
    """Return a tokenizer with one token for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(shown)]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    model: dict[str, object] = {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": False}
    absent = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    own = {"pre_tokenizer": level, "decoder": level, "model": model}
    return {"version": "1.0", "added_tokens": [], **absent, **own}


def make_adapter(folder: Path, *, rank: int = 4, seed: int = 1, **config: Any) -> Path:
    """Write an adapter for the model, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed)
    tensors = {}
    for layer in range(_LAYERS):
        for name, (rows, columns) in _SHAPES.items():
            path = f"model.layers.{layer}.{name}"
            tensors[f"{path}.lora_a"] = numbers.normal(0, 0.05, (columns, rank)).astype(np.float32)
            tensors[f"{path}.lora_b"] = numbers.normal(0, 0.05, (rank, rows)).astype(np.float32)
    save_file(tensors, folder / WEIGHTS)
    parameters = {"rank": rank, "scale": 20.0, "dropout": 0.0}
    own = {"fine_tune_type": "lora", "num_layers": _LAYERS, "lora_parameters": parameters}
    adapter_config = {**own, **config}
    (folder / CONFIG).write_text(json.dumps(adapter_config), encoding="utf-8")
    return folder


def candidate(adapter: Path, base: Path, declared: Submission | None = None) -> Candidate:
    """Return what the rules of admission look at, of an adapter and the base it is to stand on."""
    facts = BaseFacts(base.name, read_architecture(base), frozenset({base.name}))
    submission = declared or Submission(task="sample")
    return Candidate(read_adapter_folder(adapter), facts, submission)


def fused_source(folder: Path) -> BundleSource:
    """Return the source of a bundle with a fused model; its files are made in a folder."""
    base = make_base(folder / "fused")
    return BundleSource(NAME, {"base": _BASE, "adapter": _ADAPTER, "tool": "fusery"}, _files(base))


def adapter_source(folder: Path, form: Form, *, base: bool = True) -> BundleSource:
    """Return the source of a bundle with an adapter beside its base; their files are made in a folder."""
    model = make_base(folder / "base")
    architecture = read_architecture(model)
    made = make_adapter(folder / "adapter")
    if form == "peft":
        own = {name: made / name for name in (WEIGHTS, CONFIG)}
        render("peft", own, architecture, folder / "peft")
        made = folder / "peft"
    adapter = BundledAdapter(NAME, (), _files(made), _ADAPTER)
    files = _files(model) if base else None
    return BundleSource(NAME, {"base": _BASE, "tool": "fusery"}, files, (adapter,), {}, architecture)


_BASE = {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "digest": "b" * 64}
_ADAPTER = {
    "name": NAME,
    "digest": "c" * 64,
    "task": "sample",
    "version": 1,
    "date": "20260115",
    "rank": 4,
    "alpha": None,
    "scale": 20.0,
    "val_loss": 0.5,
    "dataset": "samples",
}


def _files(folder: Path) -> Files:
    return Files.of({path.name: path for path in folder.iterdir()})
