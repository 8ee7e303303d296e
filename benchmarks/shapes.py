"""Big bases of random weights in well-known shapes, written to disk in a few seconds and little memory.

python benchmarks/shapes.py FOLDER --shape qwen2-0.5b [--bits 4]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = map(str, (Path(__file__).resolve().parent.parent / "tests" / "support").iterdir())

import tiny_models

from fusery.registry.engine.affine import Grid, pack, quantize
from fusery.registry.engine.arithmetic import BF16, decode, encode
from fusery.storage.safetensors import build_header, tensor_bytes

Entry = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model, with the biases of q, k and v that it has."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool

    def modules(self) -> Iterator[tuple[str, int, int]]:
        """Yield path, rows and columns of every matrix."""
        kv = self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens", self.vocab, self.hidden
        for layer in range(self.layers):
            for name, rows, columns in (
                ("self_attn.q_proj", self.hidden, self.hidden),
                ("self_attn.k_proj", kv, self.hidden),
                ("self_attn.v_proj", kv, self.hidden),
                ("self_attn.o_proj", self.hidden, self.hidden),
                ("mlp.gate_proj", self.intermediate, self.hidden),
                ("mlp.up_proj", self.intermediate, self.hidden),
                ("mlp.down_proj", self.hidden, self.intermediate),
            ):
                yield f"model.layers.{layer}.{name}", rows, columns
        if not self.tied:
            yield "lm_head", self.vocab, self.hidden

    def vectors(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every bias and norm."""
        kv = self.hidden // self.heads * self.kv_heads
        for layer in range(self.layers):
            for name, size in (("q_proj", self.hidden), ("k_proj", kv), ("v_proj", kv)):
                yield f"model.layers.{layer}.self_attn.{name}.bias", size
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"model.layers.{layer}.{name}.weight", self.hidden
        yield "model.norm.weight", self.hidden

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(rows * columns for _, rows, columns in self.modules()) + sum(n for _, n in self.vectors())


SHAPES = {
    "qwen2-0.1b": Shape(12, 512, 8, 2, 2048, 65536, True),
    "qwen2-0.5b": Shape(24, 896, 14, 2, 4864, 151936, True),
    "qwen2-1.5b": Shape(28, 1536, 12, 2, 8960, 151936, True),
    "qwen2-7b": Shape(28, 3584, 28, 4, 18944, 152064, False),
}


def write_base(
    folder: Path, shape: Shape, bits: int | None = None, group_size: int = 64, shard: int = 5 << 30
) -> None:
    """Write a base in MLX's layout: bfloat16, or quantised in every matrix.

    Args:
        folder: made; nothing is done if it holds a model already.
        shape: its sizes.
        bits: of the quantisation, None for none.
        group_size: of the quantisation.
        shard: bytes in one file at most.
    """
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = list(_tensors(shape, bits, group_size))
    shards: list[list[tuple[Entry, Any]]] = [[]]
    size = 0
    for entry, source in tensors:
        count = tensor_bytes(entry[1], entry[2])
        if shards[-1] and size + count > shard:
            shards.append([])
            size = 0
        shards[-1].append((entry, source))
        size += count
    pool = _Pool()
    for number, part in enumerate(shards):
        name = "model" if len(shards) == 1 else f"model-{number + 1:05d}-of-{len(shards):05d}"
        with (folder / f"{name}.safetensors").open("wb") as file:
            file.write(build_header((entry for entry, _ in part), {"format": "mlx"}))
            pending: dict[str, bytes] = {}
            for (entry_name, _, _), source in part:
                _write(file, entry_name, source, pool, bits, group_size, pending)
    tiny_models.make_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(_config(shape, bits, group_size), indent=4))


def write_adapter(folder: Path, shape: Shape, rank: int = 8, layers: int = 8) -> None:
    """Write an adapter on all linear layers of the last `layers` blocks, as mlx-lm's trainer does."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    tensors: dict[str, tiny_models.Raw] = {}
    for path, rows, columns in shape.modules():
        parts = path.split(".")
        if len(parts) > 2 and int(parts[2]) >= shape.layers - layers:
            a = random.uniform(-1, 1, (columns, rank)).astype(np.float32) / math.sqrt(columns)
            tensors[f"{path}.lora_a"] = ("F32", a)
            tensors[f"{path}.lora_b"] = (
                "F32",
                random.standard_normal((rank, rows)).astype(np.float32) * 1e-4,
            )
    tiny_models.write_tensors(folder / "adapters.safetensors", tensors, metadata=None)
    config = {
        "fine_tune_type": "lora",
        "num_layers": layers,
        "lora_parameters": {"rank": rank, "dropout": 0.0, "scale": 20.0},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4))


class _Pool:
    """Eight million random numbers, handed out from changing places: fast, and good enough to be different."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._values = np.tile(self._random.standard_normal(8 << 20, dtype=np.float32), 2)

    def take(self, count: int, scale: float) -> np.ndarray[Any, Any]:
        """Return `count` numbers (at most eight million) as stored bfloat16."""
        start = int(self._random.integers(0, 8 << 20))
        return tiny_models.encode(self._values[start : start + count] * np.float32(scale), "bfloat16")


def _tensors(shape: Shape, bits: int | None, group_size: int) -> Iterator[tuple[Entry, Any]]:
    for path, rows, columns in shape.modules():
        source = (path, rows, columns)
        if bits is None:
            yield (f"{path}.weight", "BF16", (rows, columns)), source
            continue
        yield (f"{path}.weight", "U32", (rows, columns * bits // 32)), source
        for part in ("scales", "biases"):
            yield (f"{path}.{part}", "BF16", (rows, columns // group_size)), None
    for name, size in shape.vectors():
        yield (name, "BF16", (size,)), (name, 1, size)


def _write(
    file: Any,
    name: str,
    source: Any,
    pool: _Pool,
    bits: int | None,
    group_size: int,
    pending: dict[str, bytes],
) -> None:
    if source is None:
        file.write(pending.pop(name))
        return
    path, rows, columns = source
    step = max(1, (4 << 20) // columns)
    parts: dict[str, list[bytes]] = {f"{path}.scales": [], f"{path}.biases": []}
    for first in range(0, rows, step):
        count = min(step, rows - first)
        values = pool.take(count * columns, 1 / math.sqrt(columns))
        if bits is None or rows == 1:
            file.write(values.tobytes())
            continue
        groups, grid = decode(values, BF16).reshape(-1, group_size), Grid(bits, group_size, BF16)
        codes = np.empty(groups.T.shape, np.uint32)
        scales, biases = quantize(
            np.ascontiguousarray(groups.T), grid, np.empty(codes.shape, np.float32), codes
        )
        file.write(pack(codes, grid).tobytes())
        parts[f"{path}.scales"].append(encode(scales, BF16).tobytes())
        parts[f"{path}.biases"].append(encode(biases, BF16).tobytes())
    pending |= {key: b"".join(value) for key, value in parts.items() if value}


def _config(shape: Shape, bits: int | None, group_size: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "torch_dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.tied,
        "eos_token_id": 258,
    }
    if bits is not None:
        config["quantization"] = {"group_size": group_size, "bits": bits, "mode": "affine"}
        config["quantization_config"] = config["quantization"]
    return config


def main() -> None:
    """Write one base."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--bits", type=int)
    options = parser.parse_args()
    write_base(options.folder, SHAPES[options.shape], options.bits)
    print(f"{options.folder}: {SHAPES[options.shape].parameters:,} parameters")


if __name__ == "__main__":
    main()
