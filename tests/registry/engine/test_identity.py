"""The same bits as `mlx_lm.fuse`, tensor for tensor, and the same `config.json` and index, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fuse_cases import assert_same

pytest.importorskip("mlx_lm")

MIXED = {"model.layers.3.mlp.down_proj": {"bits": 4, "group_size": 32}, "model.layers.3.mlp.up_proj": False}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bf16": ({"kind": "llama"}, {}),
    "bf16 with biases": ({"kind": "llama", "bias": True}, {"num_layers": -1}),
    "bf16 qwen2 tied, layout of the hub, two shards": (
        {"kind": "qwen2", "tied": True, "layout": "hf", "shards": 2},
        {},
    ),
    "bf16 qwen3, bf16 adapter of rank 1": ({"kind": "qwen3"}, {"dtype": "bfloat16", "rank": 1}),
    "bf16 mistral, float16 adapter": ({"kind": "mistral"}, {"dtype": "float16"}),
    "bf16, tensors of a wrapped layer missing": ({"kind": "llama"}, {"skip": ["model.layers.3.mlp.up_proj"]}),
    "bf16, embedding and head": (
        {"kind": "llama"},
        {"keys": ["model.embed_tokens", "lm_head", "self_attn.v_proj"]},
    ),
    "bf16, wide matrices": (
        {"kind": "llama", "hidden": 256, "intermediate": 1280, "layers": 1},
        {"rank": 3, "num_layers": 1},
    ),
    "f16 qwen2, tied, f16 adapter": (
        {"kind": "qwen2", "dtype": "float16", "tied": True},
        {"dtype": "float16", "num_layers": 0},
    ),
    "f16, bf16 adapter": ({"kind": "llama", "dtype": "float16"}, {"dtype": "bfloat16"}),
    "f32 with biases": ({"kind": "llama", "dtype": "float32", "bias": True}, {}),
    "f32, bf16 adapter, layout of the hub": (
        {"kind": "qwen3", "dtype": "float32", "layout": "hf"},
        {"dtype": "bfloat16"},
    ),
    "4 bits": ({"kind": "llama", "bits": 4, "bias": True}, {"num_layers": -1}),
    "4 bits, qwen2, three shards": ({"kind": "qwen2", "bits": 4, "shards": 3}, {}),
    "4 bits in groups of 32, tied embedding adapted": (
        {"kind": "qwen2", "bits": 4, "group_size": 32, "tied": True},
        {"keys": ["model.embed_tokens", "self_attn.q_proj"]},
    ),
    "4 bits in groups of 128, head adapted": (
        {"kind": "qwen3", "bits": 4, "group_size": 128},
        {"keys": ["lm_head", "mlp.down_proj"]},
    ),
    "4 bits, tensors of a wrapped layer missing": (
        {"kind": "qwen2", "bits": 4},
        {"skip": ["model.layers.3.mlp.up_proj"]},
    ),
    "4 bits, f16": ({"kind": "llama", "bits": 4, "dtype": "float16"}, {"dtype": "bfloat16"}),
    "8 bits": ({"kind": "llama", "bits": 8}, {"rank": 16}),
    "8 bits, f32": ({"kind": "qwen3", "bits": 8, "dtype": "float32"}, {}),
    "8 bits, some modules otherwise": ({"kind": "llama", "bits": 8, "overrides": MIXED}, {}),
    "3 bits": ({"kind": "llama", "bits": 3}, {}),
    "6 bits": ({"kind": "llama", "bits": 6}, {}),
}

MORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{bits} bits in groups of {group}, {dtype}, {adapter} adapter": (
        {"kind": "qwen2", "bits": bits, "group_size": group, "dtype": dtype},
        {"dtype": adapter, "num_layers": -1, "rank": rank},
    )
    for bits in (2, 3, 4, 5, 6, 8)
    for group, dtype, adapter, rank in (
        (32, "bfloat16", "float32", 8),
        (64, "float16", "float16", 1),
        (128, "float32", "bfloat16", 64),
        (64, "bfloat16", "bfloat16", 4),
    )
}


def compare(
    base: dict[str, Any],
    adapter: dict[str, Any],
    dequantize: bool,
    folder: Path,
    mlx_fuse: Callable[..., Path],
    our_fuse: Callable[..., Any],
) -> None:
    made = tiny_models.make_base(folder / "base", **base)
    trained = tiny_models.make_adapter(folder / "adapter", made, **adapter)
    theirs = mlx_fuse(made, trained, dequantize=dequantize)
    ours, _ = our_fuse(made, trained, "dequantize" if dequantize else "keep")
    assert_same(theirs, ours)


@pytest.mark.parametrize(("base", "adapter"), CASES.values(), ids=CASES.keys())
def test_keep(
    base: dict[str, Any],
    adapter: dict[str, Any],
    tmp_path: Path,
    mlx_fuse: Callable[..., Path],
    our_fuse: Callable[..., Any],
) -> None:
    compare(base, adapter, False, tmp_path, mlx_fuse, our_fuse)


QUANTIZED = {name: case for name, case in CASES.items() if "bits" in case[0]}


@pytest.mark.parametrize(("base", "adapter"), QUANTIZED.values(), ids=QUANTIZED.keys())
def test_dequantize(
    base: dict[str, Any],
    adapter: dict[str, Any],
    tmp_path: Path,
    mlx_fuse: Callable[..., Path],
    our_fuse: Callable[..., Any],
) -> None:
    compare(base, adapter, True, tmp_path, mlx_fuse, our_fuse)


@pytest.mark.slow
@pytest.mark.parametrize("dequantize", [False, True], ids=["keep", "dequantize"])
@pytest.mark.parametrize(("base", "adapter"), MORE.values(), ids=MORE.keys())
def test_every_width_group_and_format(
    base: dict[str, Any],
    adapter: dict[str, Any],
    dequantize: bool,
    tmp_path: Path,
    mlx_fuse: Callable[..., Path],
    our_fuse: Callable[..., Any],
) -> None:
    compare(base, adapter, dequantize, tmp_path, mlx_fuse, our_fuse)


def test_modules_that_the_configuration_does_not_list_are_told_by_their_shapes(
    tmp_path: Path, mlx_fuse: Callable[..., Path], our_fuse: Callable[..., Any]
) -> None:
    overrides = {
        f"model.layers.3.mlp.{name}": {"bits": 8, "group_size": 32} for name in ("up_proj", "down_proj")
    }
    base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=64, overrides=overrides)
    config = json.loads((base / "config.json").read_text())
    plain = {"group_size": 64, "bits": 4, "mode": "affine"}
    config |= {"quantization": plain, "quantization_config": plain}
    (base / "config.json").write_text(json.dumps(config))
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    for precision in ("keep", "dequantize"):
        theirs = mlx_fuse(base, adapter, dequantize=precision == "dequantize", name=f"theirs-{precision}")
        assert_same(theirs, our_fuse(base, adapter, precision, name=f"ours-{precision}")[0])


def test_configuration_entries_that_mlx_lm_changes(
    tmp_path: Path, mlx_fuse: Callable[..., Path], our_fuse: Callable[..., Any]
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


def test_the_result_is_loaded_and_speaks(tmp_path: Path, our_fuse: Callable[..., Any]) -> None:
    import warnings

    base = tiny_models.make_base(tmp_path / "base", kind="qwen2", bits=4, tied=True)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.5)
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlx_lm import generate, load

        for precision in ("keep", "dequantize"):
            folder, _ = our_fuse(base, adapter, precision, name=precision)
            model, tokenizer = load(str(folder))
            texts.append(generate(model, tokenizer, "hello", max_tokens=4))
            assert tokenizer.eos_token_ids == {256, 258}
            assert tokenizer.chat_template == tiny_models.CHAT_TEMPLATE
    assert all(isinstance(text, str) for text in texts)
