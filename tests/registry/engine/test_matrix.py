"""The same bits as `mlx_lm.fuse` for every architecture, format and kind of adapter; what it cannot do is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters_by_class
import fuse_cases
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from fuse_cases import DENSE, DEQUANTIZE, KEEP, LAYOUTS, MOE, Case, all_pairs, assert_same, cover
from tensor_files import load_raw, rewrite
from tiny_models import Raw

from fusery.registry.engine.arithmetic import FORMATS, encode
from fusery.registry.errors import FusionUnsupportedError

from .conftest import MlxFuse, OurFuse

pytest.importorskip("mlx_lm")

SOAK = "FUSERY_SOAK" in os.environ
NAMES = DENSE + MOE
CASES = all_pairs(NAMES)
# Every architecture in the layout of the Hub, every format and kind of adapter with either precision.
FAST = cover(
    CASES,
    {
        pair
        for case in CASES
        for pair in case.pairs
        if pair[1] in ((LAYOUTS[1],) if pair[0] in NAMES else (KEEP, DEQUANTIZE))
    },
)
MORE = [case for case in CASES if case not in FAST][:: 1 if SOAK else 4]
# Further architectures whose layout on the Hub only their class in mlx-lm can read.
CLASS = ("gemma3", "qwen3_next", "gpt2", "gpt_neox", "lfm2", "granitemoe", "mamba", "olmoe")
BY_CLASS = [
    Case(name, "bf16", adapter, layout="hf")
    for place, name in enumerate(CLASS)
    for other, adapter in enumerate(("lora", "full", "embedding"))
    if SOAK or place % 3 == other
]


@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in (*MORE, *BY_CLASS))], ids=str
)
def test_same_bits(case: Case, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    base = fuse_cases.make_base(tmp_path / "base", case)
    adapter = fuse_cases.make_adapter(tmp_path / "adapter", base, case)
    theirs = mlx_fuse(base, adapter, dequantize=case.precision == DEQUANTIZE)
    ours, _ = our_fuse(base, adapter, case.precision)
    assert_same(theirs, ours)


Setup = Callable[[Path], tuple[Path, Path]]


def set_config(folder: Path, name: str = "config.json", **entries: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def made(
    folder: Path, architecture: str = "llama", form: str = "bf16", adapter: str = "lora", **options: Any
) -> tuple[Path, Path]:
    base = fuse_cases.make_base(folder / "base", Case(architecture, form, adapter))
    return base, adapters_by_class.make_adapter(folder / "adapter", base, **options)


def given(*words: str, **options: Any) -> Setup:
    return lambda folder: made(folder, *words, **options)


def with_global_scale(folder: Path, keys: list[str] | None = None) -> tuple[Path, Path]:
    """Write a base of nvfp4 experts that have one more scale each: mlx-lm drops it, and the numbers mean nothing."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model

    dense = tiny_architectures.make_architecture(folder / "dense", "qwen3_moe")
    config = json.loads((dense / "config.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(
            adapters_by_class.load_lazily(dense), config, 16, 4, "nvfp4", global_scale=True
        )
    tiny_architectures.write_base(folder / "base", dict(tree_flatten(model.parameters())), config, "mlx")
    return folder / "base", adapters_by_class.make_adapter(folder / "adapter", folder / "base", keys=keys)


def dora_on_experts(folder: Path) -> tuple[Path, Path]:
    base, adapter = made(folder, "mixtral")

    def to_dora(tensors: dict[str, Raw]) -> None:
        for name in [name for name in tensors if name.endswith("lora_b")]:
            ones = np.ones(tensors[name][1].shape[-1], np.float32)
            tensors[name.replace("lora_b", "m")] = ("F32", ones)

    rewrite(adapter, to_dora)
    parameters = {"rank": 8, "scale": 20.0, "dropout": 0.0}
    set_config(adapter, "adapter_config.json", fine_tune_type="dora", lora_parameters=parameters)
    return base, adapter


def head_of_a_tied_base(folder: Path) -> tuple[Path, Path]:
    """The file of the tied base holds a second copy, which mlx-lm drops."""
    untied, tied = (
        tiny_models.make_base(folder / f"tied-{tied}", kind="qwen2", tied=tied, layout="hf")
        for tied in (False, True)
    )
    return tied, adapters_by_class.make_adapter(folder / "adapter", untied, keys=["lm_head"])


def several_updates(folder: Path) -> tuple[Path, Path]:
    """In afm7 one matrix has three updates, called `lora_a.0` and so on."""
    base = tiny_architectures.make_architecture(folder / "base", "afm7")
    return base, adapters_by_class.make_adapter(folder / "adapter", base)


def renamed(old: str, new: str) -> Setup:
    def setup(folder: Path) -> tuple[Path, Path]:
        base, adapter = made(folder)
        path = adapter / "adapters.safetensors"
        tensors = {name.replace(old, new): raw for name, raw in load_raw(path).items()}
        tiny_models.write_tensors(path, tensors, None)
        return base, adapter

    return setup


_QUERY, UNKNOWN = "model.layers.0.self_attn.q_proj", "not an adapter parameter"
# How a base and an adapter are made, what mlx-lm says of them, and what our refusal names.
REFUSED: dict[str, tuple[Setup, str, str]] = {
    "a global scale": (with_global_scale, "", "global_scale"),
    "DoRA on a quantised embedding": (
        given("qwen2", "8bit", "dora", kind="dora", keys=["model.embed_tokens"]),
        "",  # mlx-lm takes packed words for numbers
        "model.embed_tokens",
    ),
    "DoRA on experts": (dora_on_experts, "doesn't support DoRA", "block_sparse_moe"),
    "DoRA on 3 bits": (given("llama", "3bit", "dora", kind="dora"), "broadcast", "model.layers."),
    "the head of a base that has none": (head_of_a_tied_base, r"lm_head\.lora_a", "lm_head"),
    "layers of several updates": (several_updates, UNKNOWN, "qkv_proj.lora_"),
    "an unknown module": (renamed(_QUERY, "model.layers.0.self_attn.x_proj"), UNKNOWN, "x_proj"),
    "a norm": (renamed(_QUERY, "model.layers.0.input_layernorm"), UNKNOWN, "input_layernorm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_by_mlx_lm(name: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    make, theirs, named = REFUSED[name]
    base, adapter = make(tmp_path)
    if theirs:
        with pytest.raises(ValueError, match=theirs):
            mlx_fuse(base, adapter)
    with pytest.raises(FusionUnsupportedError) as caught:
        our_fuse(base, adapter)
    assert named in caught.value.message
    assert list((tmp_path / "ours").iterdir()) == []


# Where two results are possible


def test_a_global_scale_is_kept_or_refused(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    base, adapter = with_global_scale(tmp_path, ["self_attn.q_proj"])
    ours, _ = our_fuse(base, adapter)
    assert_same(mlx_fuse(base, adapter), ours)
    with pytest.raises(FusionUnsupportedError, match="global_scale"):
        our_fuse(base, adapter, DEQUANTIZE, name="plain")


@pytest.mark.parametrize("form", ["f16", "4bit"])
def test_magnitudes_in_short_formats(form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    """The trainer writes float32; a converted adapter may not, and then the result is not float32 either."""
    base, adapter = made(tmp_path, "llama", form, "dora", kind="dora")
    kind = FORMATS["F16" if form == "f16" else "BF16"]
    rewrite(
        adapter,
        lambda t: t.update({name: (kind.name, encode(value, kind)) for name, (_, value) in t.items()}),
    )
    ours, _ = our_fuse(base, adapter)
    assert_same(mlx_fuse(base, adapter), ours)


def test_matrices_of_each_head_are_dequantised(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    """`mlx_lm.fuse --dequantize` leaves them packed and says that nothing is: what it wrote cannot be loaded."""
    base, adapter = made(tmp_path, "deepseek_v3", "4bit", keys=["self_attn.o_proj"])
    theirs = mlx_fuse(base, adapter, dequantize=True)
    with pytest.raises(ValueError, match="not in model"):
        adapters_by_class.load_lazily(theirs)
    ours, _ = our_fuse(base, adapter, DEQUANTIZE)
    written = tiny_models.read_tensors(ours)
    assert not any(name.endswith((".scales", ".biases")) for name in written)
    expected = tiny_models.read_tensors(theirs)
    packed = {name.rpartition(".")[0] for name in expected if name.endswith(".scales")}
    assert packed
    others = {name for name in expected if name.rpartition(".")[0] not in packed}
    assert {name: expected[name] for name in others} == {name: written[name] for name in others}
    adapters_by_class.load_lazily(ours)
