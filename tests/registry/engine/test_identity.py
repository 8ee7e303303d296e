"""The same bits as `mlx_lm.fuse`, and `mlx_lm.convert -q` behind it, tensor for tensor; the same `config.json` and index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import adapters_by_class
import pytest
import tiny_architectures
import tiny_models
from fuse_cases import assert_same

from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.engine.recipe import KEEP

from .conftest import MlxFuse, OurFuse

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.usefixtures("quiet")

Options = dict[str, Any]
KEPT, BOTH = ("keep",), ("keep", "dequantize")
UP, DOWN = "model.layers.3.mlp.up_proj", "model.layers.3.mlp.down_proj"
EMBEDDING = "model.embed_tokens"
CASES: dict[str, tuple[Options, Options, tuple[str | Quantize, ...]]] = {
    "biases": ({"bias": True}, {"num_layers": -1}, KEPT),
    "tied, layout of the hub, shards": (
        {"kind": "qwen2", "tied": True, "layout": "hf", "shards": 2},
        {},
        KEPT,
    ),
    "tensors of a wrapped layer missing": ({}, {"skip": [UP]}, KEPT),
    "embedding and head": ({}, {"keys": [EMBEDDING, "lm_head", "self_attn.v_proj"]}, KEPT),
    "wide": ({"hidden": 256, "intermediate": 1280, "layers": 1}, {"rank": 3, "num_layers": 1}, KEPT),
    "4 bits, tied embedding": (
        {"kind": "qwen2", "bits": 4, "group_size": 32, "tied": True},
        {"keys": [EMBEDDING, "self_attn.q_proj"]},
        BOTH,
    ),
    "4 bits, head": ({"bits": 4, "group_size": 128}, {"keys": ["lm_head", "mlp.down_proj"]}, BOTH),
    "some modules otherwise": (
        {"bits": 8, "overrides": {DOWN: {"bits": 4, "group_size": 32}, UP: False}},
        {},
        (*BOTH, Quantize(5, 32)),
    ),
    "tied embedding to 8 bits": ({"kind": "qwen2", "tied": True}, {"keys": [EMBEDDING]}, (Quantize(8, 32),)),
    "layout of the hub to 3 bits": ({"layout": "hf", "shards": 2}, {}, (Quantize(3, 64),)),
    "narrow layers stay dense": ({"hidden": 96, "intermediate": 128}, {}, (Quantize(4, 128),)),
    "4 bits to nvfp4": ({"bits": 4}, {}, (Quantize(4, 16, "nvfp4"),)),
    "f16 to mxfp8": ({"dtype": "float16"}, {}, (Quantize(8, 32, "mxfp8"),)),
}


@pytest.mark.parametrize(("base", "adapter", "written"), CASES.values(), ids=CASES)
def test_same_bits(
    base: Options,
    adapter: Options,
    written: tuple[str | Quantize, ...],
    tmp_path: Path,
    mlx_fuse: MlxFuse,
    our_fuse: OurFuse,
) -> None:
    made = tiny_models.make_base(tmp_path / "base", **base)
    trained = tiny_models.make_adapter(tmp_path / "adapter", made, **adapter)
    for number, form in enumerate(written):
        theirs = mlx_fuse(made, trained, dequantize=form != "keep", name=f"theirs-{number}")
        if isinstance(form, Quantize):
            theirs, form = converted(tmp_path, theirs, form), WritePolicy(KEEP, quantize=form)
        assert_same(theirs, our_fuse(made, trained, form, name=f"ours-{number}")[0])


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
    ours, _ = our_fuse(base, adapter, WritePolicy(KEEP, quantize=Quantize(8, 32)))
    assert_same(converted(tmp_path, mlx_fuse(base, adapter, dequantize=True), Quantize(8, 32)), ours)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_modules_with_their_own_format(
    name: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", name)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    ours, _ = our_fuse(base, adapter, WritePolicy(KEEP, quantize=Quantize(4, 32)))
    assert_same(converted(tmp_path, mlx_fuse(base, adapter, dequantize=True), Quantize(4, 32)), ours)


def converted(folder: Path, plain: Path, quantize: Quantize) -> Path:
    from mlx_lm.convert import convert

    settings = {"q_group_size": quantize.group_size, "q_bits": quantize.bits, "q_mode": quantize.mode}
    convert(str(plain), str(folder / "converted"), quantize=True, **settings)
    return folder / "converted"


def test_configuration_that_mlx_lm_changes(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
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
