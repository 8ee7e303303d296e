"""The same bits as `mlx_lm.fuse`, tensor for tensor, and the same `config.json` and index, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fuse_cases import assert_same

from .conftest import MlxFuse, OurFuse

pytest.importorskip("mlx_lm")


def case(adapter: dict[str, Any] | None = None, **base: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return base, adapter or {}


MIXED = {"model.layers.3.mlp.down_proj": {"bits": 4, "group_size": 32}, "model.layers.3.mlp.up_proj": False}
UP = "model.layers.3.mlp.up_proj"
EMBEDDING = "model.embed_tokens"
DENSE = {
    "bf16 with biases": case({"num_layers": -1}, bias=True),
    "qwen2 tied, layout of the hub, two shards": case(kind="qwen2", tied=True, layout="hf", shards=2),
    "bf16 mistral, float16 adapter": case({"dtype": "float16"}, kind="mistral"),
    "tensors of a wrapped layer missing": case({"skip": [UP]}),
    "embedding and head": case({"keys": [EMBEDDING, "lm_head", "self_attn.v_proj"]}),
    "wide matrices": case({"rank": 3, "num_layers": 1}, hidden=256, intermediate=1280, layers=1),
    "f16 qwen2, tied": case({"dtype": "float16", "num_layers": 0}, kind="qwen2", dtype="float16", tied=True),
    "f32 of the hub, bf16 adapter": case({"dtype": "bfloat16"}, kind="qwen3", dtype="float32", layout="hf"),
}
QUANTIZED = {
    "4 bits, biases": case({"num_layers": -1}, bits=4, bias=True),
    "4 bits, qwen2, three shards": case(kind="qwen2", bits=4, shards=3),
    "4 bits in groups of 32, tied embedding adapted": case(
        {"keys": [EMBEDDING, "self_attn.q_proj"]}, kind="qwen2", bits=4, group_size=32, tied=True
    ),
    "4 bits in groups of 128, head adapted": case(
        {"keys": ["lm_head", "mlp.down_proj"]}, kind="qwen3", bits=4, group_size=128
    ),
    "8 bits, f16, tensors missing": case({"skip": [UP], "dtype": "bfloat16"}, bits=8, dtype="float16"),
    "8 bits, some modules otherwise": case(bits=8, overrides=MIXED),
}
WIDTHS = {
    f"{bits} bits in groups of {group}, {dtype}": case(
        {"dtype": adapter, "num_layers": -1, "rank": rank},
        kind="qwen2",
        bits=bits,
        group_size=group,
        dtype=dtype,
    )
    for bits, (group, dtype, adapter, rank) in zip(
        (2, 3, 4, 5, 6, 8),
        2 * ((32, "bfloat16", "float32", 8), (64, "float16", "float16", 1), (128, "float32", "bfloat16", 64)),
        strict=True,
    )
}
CASES = [
    *((name, *made, dequantize) for name, made in QUANTIZED.items() for dequantize in (False, True)),
    *((name, *made, False) for name, made in (DENSE | WIDTHS).items()),
]


@pytest.mark.parametrize(
    ("base", "adapter", "dequantize"),
    [made[1:] for made in CASES],
    ids=[f"{made[0]}{made[3] * ', dequantised'}" for made in CASES],
)
def test_same_bits(
    base: dict[str, Any],
    adapter: dict[str, Any],
    dequantize: bool,
    tmp_path: Path,
    mlx_fuse: MlxFuse,
    our_fuse: OurFuse,
) -> None:
    made = tiny_models.make_base(tmp_path / "base", **base)
    trained = tiny_models.make_adapter(tmp_path / "adapter", made, **adapter)
    theirs = mlx_fuse(made, trained, dequantize=dequantize)
    ours, _ = our_fuse(made, trained, "dequantize" if dequantize else "keep")
    assert_same(theirs, ours)


def test_configuration_entries_that_mlx_lm_changes(
    tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {
        "_name_or_path": "somewhere",
        "vision_config": {"hidden_size": 1},
        "partial": {"__float__": "Infinity"},
        "note": "naïve ✓",
        "zeta": [1, {"b": None, "a": True}],
    }
    (base / "config.json").write_text(json.dumps(config))
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    theirs = mlx_fuse(base, adapter)
    ours, _ = our_fuse(base, adapter)
    assert_same(theirs, ours)
    assert "vision_config" not in json.loads((ours / "config.json").read_text())
