"""`--quantize`: the bits of `mlx_lm.fuse --dequantize` and then `mlx_lm.convert -q`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import adapters_by_class
import pytest
import tiny_architectures
import tiny_models
from fuse_cases import assert_same

from fusery.registry.engine.policy import Policy, Quantize
from fusery.registry.engine.precisions import KEEP

from .conftest import MlxFuse, OurFuse

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.usefixtures("quiet")


REQUANTISED: dict[str, tuple[dict[str, Any], dict[str, Any], Quantize]] = {
    "bf16 to 8 bits, tied, embedding adapted": (
        {"kind": "qwen2", "tied": True},
        {"keys": ["model.embed_tokens", "self_attn.q_proj"]},
        Quantize(8, 32),
    ),
    "bf16, layout of the hub, to 3 bits": ({"layout": "hf", "shards": 2}, {}, Quantize(3, 64)),
    "f16 to 6 bits": ({"dtype": "float16"}, {}, Quantize(6, 128)),
    "f32 with biases to 4 bits": ({"dtype": "float32", "bias": True}, {}, Quantize(4, 32)),
    "narrow layers stay dense": ({"hidden": 96, "intermediate": 128}, {}, Quantize(4, 128)),
    "4 bits to 8 bits": ({"bits": 4, "kind": "qwen3"}, {}, Quantize(8, 64)),
    "8 bits to 4 bits in other groups": ({"bits": 8, "group_size": 32}, {}, Quantize(4, 128)),
    "4 bits, some modules otherwise, to 5 bits": (
        {
            "bits": 4,
            "overrides": {"model.layers.3.mlp.up_proj": False, "lm_head": {"bits": 8, "group_size": 32}},
        },
        {"skip": ["model.layers.3.mlp.down_proj"]},
        Quantize(5, 32),
    ),
    "bf16 to mxfp4": ({}, {}, Quantize(4, 32, "mxfp4")),
    "4 bits to nvfp4": ({"bits": 4}, {}, Quantize(4, 16, "nvfp4")),
    "f16 to mxfp8": ({"dtype": "float16"}, {}, Quantize(8, 32, "mxfp8")),
}


@pytest.mark.parametrize(("base", "adapter", "quantize"), REQUANTISED.values(), ids=REQUANTISED.keys())
def test_quantising_has_the_bits_of_fusing_dequantised_and_converting(
    base: dict[str, Any],
    adapter: dict[str, Any],
    quantize: Quantize,
    tmp_path: Path,
    mlx_fuse: MlxFuse,
    our_fuse: OurFuse,
) -> None:
    made = tiny_models.make_base(tmp_path / "base", **base)
    trained = tiny_models.make_adapter(tmp_path / "adapter", made, **adapter)
    ours, _ = our_fuse(made, trained, Policy(KEEP, quantize=quantize))
    assert_same(converted(tmp_path, mlx_fuse(made, trained, dequantize=True), quantize), ours)


@pytest.mark.parametrize(("torch_dtype", "bits"), [(False, 4), (True, None)])
def test_quantising_dora(
    torch_dtype: bool, bits: int | None, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=bits)
    if not torch_dtype:
        config = json.loads((base / "config.json").read_text())
        del config["torch_dtype"]
        (base / "config.json").write_text(json.dumps(config))
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, fine_tune_type="dora")
    ours, _ = our_fuse(base, adapter, Policy(KEEP, quantize=Quantize(8, 32)))
    assert_same(converted(tmp_path, mlx_fuse(base, adapter, dequantize=True), Quantize(8, 32)), ours)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_modules_for_which_the_class_asks_otherwise(
    name: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", name)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    ours, _ = our_fuse(base, adapter, Policy(KEEP, quantize=Quantize(4, 32)))
    assert_same(converted(tmp_path, mlx_fuse(base, adapter, dequantize=True), Quantize(4, 32)), ours)


def converted(folder: Path, plain: Path, quantize: Quantize) -> Path:
    """Return what `mlx_lm.convert -q` makes of a model."""
    from mlx_lm.convert import convert

    settings = {
        "q_group_size": quantize.group_size,
        "q_bits": quantize.bits,
        "q_mode": quantize.mode,
    }
    convert(str(plain), str(folder / "converted"), quantize=True, **settings)
    return folder / "converted"
