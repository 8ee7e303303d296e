"""Tiny random models and adapters, as mlx-lm writes them: real files to test with, made in well under a second.

Needs NumPy only; mlx is imported where a quantised base is asked for.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tensor_files import _DTYPES, FloatType, Raw, encode, read_tensors, write_tensors  # noqa: F401

Kind = Literal["llama", "mistral", "qwen2", "qwen3"]
Layout = Literal["mlx", "hf"]

LINEAR = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
    "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
"""The seven linear layers of one transformer block, relative to the block."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_base(
    folder: Path,
    *,
    kind: Kind = "llama",
    dtype: FloatType = "bfloat16",
    bits: int | None = None,
    group_size: int = 64,
    overrides: Mapping[str, dict[str, Any] | bool] | None = None,
    shards: int = 1,
    tied: bool = False,
    bias: bool = False,
    layout: Layout = "mlx",
    layers: int = 4,
    hidden: int = 128,
    intermediate: int = 256,
    vocab: int = 320,
    seed: int = 0,
) -> Path:
    """Write a random model with a working byte-level tokenizer, and return its folder.

    qwen2 has q/k/v biases, qwen3 has q/k norms, whatever `bias` says (llama's).  `bits` quantises every linear layer and the
    embedding; `overrides` gives a module {"bits", "group_size"} of its own, or False for dense.  The layout `hf` writes the
    metadata {"format": "pt"}, rotary `inv_freq` leftovers (not for qwen3, which never had them) and, when tied, a redundant
    `lm_head.weight`, as many hub models have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _shapes(kind, layers, hidden, intermediate, vocab, tied=tied, bias=bias)
    dense = _random_weights(shapes, seed)
    tensors: dict[str, Raw] = {}
    for name, value in dense.items():
        module = name.removesuffix(".weight")
        choice = (overrides or {}).get(module, {})
        if bits is None or value.ndim != 2 or choice is False:
            tensors[name] = (_DTYPES[dtype], encode(value, dtype))
        else:
            options = {"bits": bits, "group_size": group_size} | (choice if isinstance(choice, dict) else {})
            tensors |= _quantized(module, value, dtype, options["bits"], options["group_size"])
    if layout == "hf":
        tensors |= _leftovers(dense, dtype, 0 if kind == "qwen3" else layers, hidden // 4, tied=tied)
    _write_shards(folder, tensors, shards, "mlx" if layout == "mlx" else "pt")
    config = _config(kind, dtype, layers, hidden, intermediate, vocab, tied=tied, bias=bias)
    if bits is not None:
        quantization: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
        quantization |= dict(overrides or {})
        config |= {"quantization": quantization, "quantization_config": quantization}
    _write_json(folder / "config.json", config)
    make_tokenizer(folder)
    return folder


def respell(folder: Path, base: Path, theta: float = 777.0) -> tuple[Path, Path]:
    """Return two copies of a base with another theta: one as of old, one whose configuration transformers 5 saved."""
    old, new = (shutil.copytree(base, folder / name) for name in ("old", "new"))
    config = json.loads((base / "config.json").read_text()) | {"rope_theta": theta}
    _write_json(old / "config.json", config)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    config["dtype"] = config.pop("torch_dtype")
    _write_json(new / "config.json", config | {"transformers_version": "5.24.0"})
    return old, new


def make_adapter(
    folder: Path,
    base: Path,
    *,
    rank: int = 8,
    scale: float = 20.0,
    num_layers: int = 2,
    keys: Sequence[str] | None = None,
    dtype: FloatType = "float32",
    fine_tune_type: Literal["lora", "dora"] = "lora",
    skip: Iterable[str] = (),
    seed: int = 0,
    update: float = 0.05,
) -> Path:
    """Write an adapter as mlx-lm's trainer does, and return its folder.

    `num_layers` counts blocks from the end, -1 or 0 for all.  `keys` are paths relative to a block, or from the model's root;
    None for all seven linear layers.  Modules in `skip` are left out, as in a damaged adapter.  `update` is the Frobenius norm of
    scale * B A over that of a typical random weight matrix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    random = np.random.default_rng(seed + 1000)
    tensors: dict[str, Raw] = {}
    for path in adapted_modules(config, num_layers, keys):
        if path in set(skip):
            continue
        out, into = _module_shape(config, path)
        a = random.uniform(-1, 1, (into, rank)).astype(np.float32) / math.sqrt(into)
        b = random.standard_normal((rank, out)).astype(np.float32)
        if path.endswith("embed_tokens"):
            a, b = b.T.copy(), a.T.copy()
        b *= update * math.sqrt(out) / (scale * float(np.linalg.norm(a @ b)))
        tensors[f"{path}.lora_a"] = (_DTYPES[dtype], encode(a, dtype))
        tensors[f"{path}.lora_b"] = (_DTYPES[dtype], encode(b, dtype))
        if fine_tune_type == "dora":
            tensors[f"{path}.m"] = ("F32", random.uniform(0.9, 1.1, out).astype(np.float32))
    write_tensors(folder / "adapters.safetensors", tensors, metadata=None)
    parameters: dict[str, Any] = {"rank": rank, "dropout": 0.0, "scale": scale}
    if keys is not None:
        parameters["keys"] = list(keys)
    _write_json(
        folder / "adapter_config.json", _trainer_arguments(base, parameters, num_layers, fine_tune_type)
    )
    return folder


def adapted_modules(
    config: Mapping[str, Any], num_layers: int, keys: Sequence[str] | None = None
) -> list[str]:
    """Return the module paths that mlx-lm wraps for these settings, in model order."""
    total = int(config["num_hidden_layers"])
    wanted = range(total)[-max(num_layers, 0) :]
    chosen = LINEAR if keys is None else [key for key in LINEAR if key in keys]
    roots = [key for key in (keys or ()) if key.startswith("model.") or key == "lm_head"]
    return [f"model.layers.{index}.{key}" for index in wanted for key in chosen] + roots


def make_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer with 256 byte tokens and three special ones, a chat template and its configs."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    vocab = {letters[byte]: byte for byte in range(256)}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [
        {"id": 256 + number, "content": text, **plain, "special": True}
        for number, text in enumerate(_SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": None, "byte_fallback": False},
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _SPECIAL[2],
        "pad_token": _SPECIAL[0],
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write_json(folder / "generation_config.json", {"eos_token_id": [258, 256], "pad_token_id": 256})


def _shapes(
    kind: Kind, layers: int, hidden: int, intermediate: int, vocab: int, *, tied: bool, bias: bool
) -> dict[str, tuple[int, ...]]:
    config = {"hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": vocab}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for index in range(layers):
        block = f"model.layers.{index}."
        for key in LINEAR:
            shape = _module_shape(config, block + key)
            shapes[f"{block}{key}.weight"] = shape
            qkv = key in LINEAR[:3]
            if (bias and kind == "llama") or (kind == "qwen2" and qkv):
                shapes[f"{block}{key}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}{norm}.weight"] = (hidden,)
        if kind == "qwen3":
            shapes |= {f"{block}self_attn.{norm}.weight": (hidden // 4,) for norm in ("q_norm", "k_norm")}
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _module_shape(config: Mapping[str, Any], path: str) -> tuple[int, int]:
    hidden, middle = int(config["hidden_size"]), int(config["intermediate_size"])
    vocabulary = int(config["vocab_size"])
    # Keys and values have half the heads in what `make_base` makes.
    heads = int(config.get("num_attention_heads", 2)), int(config.get("num_key_value_heads", 1))
    narrow = hidden * heads[1] // heads[0]
    return {
        "q_proj": (hidden, hidden), "k_proj": (narrow, hidden), "v_proj": (narrow, hidden),
        "o_proj": (hidden, hidden), "gate_proj": (middle, hidden), "up_proj": (middle, hidden),
        "down_proj": (hidden, middle), "embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden),
    }[path.rsplit(".", 1)[-1]]  # fmt: skip


def _random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape, dtype=np.float32)
        values[name] = value / math.sqrt(shape[-1]) if len(shape) == 2 else 1 + value / 10
    return values


def _quantized(
    module: str, value: np.ndarray[Any, Any], dtype: FloatType, bits: int, group_size: int
) -> dict[str, Raw]:
    import mlx.core as mx

    parts = mx.quantize(mx.array(value).astype(getattr(mx, dtype)), group_size=group_size, bits=bits)
    raw: dict[str, Raw] = {f"{module}.weight": ("U32", np.array(parts[0]))}
    for name, part in zip(("scales", "biases"), parts[1:], strict=True):
        stored = np.array(part.view(mx.uint16)) if dtype == "bfloat16" else np.array(part)
        raw[f"{module}.{name}"] = (_DTYPES[dtype], stored)
    return raw


def _leftovers(
    dense: Mapping[str, np.ndarray[Any, Any]], dtype: FloatType, layers: int, head: int, *, tied: bool
) -> dict[str, Raw]:
    frequencies = (1.0 / 10000 ** (np.arange(0, head, 2) / head)).astype(np.float32)
    extra: dict[str, Raw] = {
        f"model.layers.{index}.self_attn.rotary_emb.inv_freq": ("F32", frequencies) for index in range(layers)
    }
    if tied:
        extra["lm_head.weight"] = (_DTYPES[dtype], encode(dense["model.embed_tokens.weight"], dtype))
    return extra


def _write_shards(folder: Path, tensors: Mapping[str, Raw], shards: int, form: str) -> None:
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors, {"format": form})
        return
    names = list(tensors)
    size = -(-len(names) // shards)
    where: dict[str, str] = {}
    for number in range(shards):
        part = names[number * size : (number + 1) * size]
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        write_tensors(folder / file, {name: tensors[name] for name in part}, {"format": form})
        where |= dict.fromkeys(part, file)
    total = sum(value.nbytes for _, value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _config(kind: Kind, dtype: str, *sizes: int, tied: bool, bias: bool) -> dict[str, Any]:
    layers, hidden, intermediate, vocab = sizes
    config: dict[str, Any] = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "torch_dtype": dtype,
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": hidden // 4, "vocab_size": vocab,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": tied, "eos_token_id": 258,
    }  # fmt: skip
    if kind == "llama":
        config |= {"attention_bias": bias, "mlp_bias": bias}
    return config


def _trainer_arguments(
    base: Path, parameters: dict[str, Any], num_layers: int, fine_tune_type: str
) -> dict[str, Any]:
    """Return what `mlx_lm.lora` writes: all of its arguments, sorted."""
    arguments: dict[str, Any] = {
        "model": str(base), "train": True, "data": "data", "fine_tune_type": fine_tune_type, "optimizer": "adam",
        "optimizer_config": {"adam": {}, "adamw": {}, "muon": {}, "sgd": {}, "adafactor": {}}, "mask_prompt": False,
        "num_layers": num_layers, "batch_size": 4, "iters": 100, "val_batches": 25, "learning_rate": 3e-5,
        "steps_per_report": 10, "steps_per_eval": 200, "grad_accumulation_steps": 1, "resume_adapter_file": None,
        "adapter_path": "adapters", "save_every": 100, "test": False, "test_batches": 500, "max_seq_length": 2048,
        "config": None, "grad_checkpoint": False, "clear_cache_threshold": 0, "report_to": None, "project_name": None,
        "seed": 0, "trust_remote_code": False, "lr_schedule": None, "lora_parameters": parameters,
    }  # fmt: skip
    return dict(sorted(arguments.items()))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4))
