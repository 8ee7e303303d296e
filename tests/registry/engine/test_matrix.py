"""The same bits as `mlx_lm.fuse` for every architecture, format and kind of adapter; what it cannot do is refused."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters_by_class
import fuse_cases
import pytest
import tiny_architectures
import tiny_models
from fuse_cases import DENSE, DEQUANTIZE, KEEP, LAYOUTS, MOE, Case, all_pairs, assert_same, cover

from fusery.registry.errors import FusionUnsupportedError

pytest.importorskip("mlx_lm")

MlxFuse = Callable[..., Path]
OurFuse = Callable[..., Any]

CASES = all_pairs(DENSE + MOE)
FAST = cover(
    CASES,
    {pair for case in CASES for pair in case.pairs if pair[1] in (KEEP, DEQUANTIZE, *LAYOUTS)},
)
"""Every architecture, format and kind of adapter with either precision and in either layout."""

CLASS = ("gemma3", "qwen3_next", "gpt2", "gpt_neox", "lfm2", "granitemoe", "phimoe", "mamba", "olmoe")
"""Further architectures whose layout on the Hub only their class in mlx-lm can read."""


def compare(case: Case, folder: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    base = fuse_cases.make_base(folder / "base", case)
    adapter = fuse_cases.make_adapter(folder / "adapter", base, case)
    theirs = mlx_fuse(base, adapter, dequantize=case.precision == DEQUANTIZE)
    ours, _ = our_fuse(base, adapter, case.precision)
    assert_same(theirs, ours)


@pytest.mark.parametrize("case", FAST, ids=str)
def test_same_bits(case: Case, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    compare(case, tmp_path, mlx_fuse, our_fuse)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in FAST], ids=str)
def test_same_bits_of_any_pair(case: Case, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    compare(case, tmp_path, mlx_fuse, our_fuse)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full", "embedding"])
@pytest.mark.parametrize("name", CLASS)
def test_same_bits_by_the_class(
    name: str, adapter: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    compare(Case(name, "bf16", adapter, layout="hf"), tmp_path, mlx_fuse, our_fuse)


def test_the_cases_cover_what_was_promised() -> None:
    assert len(DENSE + MOE) >= 14
    possible = (
        case
        for name in DENSE + MOE
        for form in fuse_cases.FORMATS
        for adapter in fuse_cases.ADAPTERS
        for precision in (KEEP, DEQUANTIZE)
        for layout in LAYOUTS
        if (case := Case(name, form, adapter, precision, layout)).possible
    )
    wanted = {pair for case in possible for pair in case.pairs}
    assert wanted == {pair for case in CASES for pair in case.pairs}
    assert {word for pair in wanted for word in pair} == {
        word for case in FAST for pair in case.pairs for word in pair
    }
    assert len(set(CASES)) == len(CASES)


# What mlx_lm.fuse cannot do, or does wrong


def refused(folder: Path, our_fuse: OurFuse, base: Path, adapter: Path, precision: str = KEEP) -> str:
    """Fuse, expect a refusal before anything is written, and return what it says."""
    with pytest.raises(FusionUnsupportedError) as caught:
        our_fuse(base, adapter, precision)
    assert list((folder / "ours").iterdir()) == []
    return caught.value.message


def set_config(folder: Path, name: str = "config.json", **entries: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def rewrite(adapter: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the tensors of an adapter."""
    import mlx.core as mx

    file = str(adapter / "adapters.safetensors")
    held: Any = mx.load(file)
    changed = change(dict(held))
    mx.eval(changed)
    mx.save_safetensors(file, changed)


def with_global_scale(folder: Path) -> Path:
    """Write a base of nvfp4 experts that have one more scale each."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model

    dense = tiny_architectures.make_architecture(folder / "dense", "qwen3_moe")
    config = json.loads((dense / "config.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(
            adapters_by_class.load_lazily(dense), config, 16, 4, "nvfp4", global_scale=True
        )
    tiny_architectures.write_base(folder / "base", dict(tree_flatten(model.parameters())), config, "mlx")
    return folder / "base"


@pytest.mark.parametrize("precision", [KEEP, DEQUANTIZE])
def test_a_global_scale_is_refused(
    precision: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = with_global_scale(tmp_path)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    theirs = tiny_models.read_tensors(mlx_fuse(base, adapter, dequantize=precision == DEQUANTIZE))
    assert not any(
        name.endswith("global_scale") for name in theirs
    )  # and without it the numbers mean nothing
    assert "global_scale" in refused(tmp_path, our_fuse, base, adapter, precision)


def test_a_global_scale_that_no_adapter_touches_is_kept_but_not_turned_into_plain_numbers(
    tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = with_global_scale(tmp_path)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, keys=["self_attn.q_proj"])
    ours, _ = our_fuse(base, adapter)
    assert_same(mlx_fuse(base, adapter), ours)
    with pytest.raises(FusionUnsupportedError, match="global_scale"):
        our_fuse(base, adapter, DEQUANTIZE, name="plain")


@pytest.mark.parametrize("form", ["4bit", "8bit", "mxfp4", "nvfp4"])
def test_dora_on_a_quantised_embedding_is_refused(
    form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = fuse_cases.make_base(tmp_path / "base", Case("qwen2", form, "dora"))
    keys = ["model.embed_tokens", "self_attn.q_proj"]
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, kind="dora", keys=keys)
    theirs = tiny_models.read_tensors(mlx_fuse(base, adapter))
    packed = tiny_models.read_tensors(base)["model.embed_tokens.weight"]
    assert theirs["model.embed_tokens.weight"][:2] == ("F32", packed[1])  # packed words taken for numbers
    assert "model.embed_tokens" in refused(tmp_path, our_fuse, base, adapter)


@pytest.mark.parametrize("whole", [True, False], ids=["with tensors for the experts", "without"])
@pytest.mark.parametrize("form", ["bf16", "4bit"])
def test_dora_on_experts_is_refused(
    form: str, whole: bool, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    import mlx.core as mx

    base = fuse_cases.make_base(tmp_path / "base", Case("mixtral", form, "lora"))
    keys = None if whole else ["self_attn.q_proj"]
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, keys=keys)

    def to_dora(tensors: dict[str, Any]) -> dict[str, Any]:
        outs = {name: value.shape[-1] for name, value in tensors.items() if name.endswith("lora_b")}
        return tensors | {name.replace("lora_b", "m"): mx.ones((out,)) for name, out in outs.items()}

    rewrite(adapter, to_dora)
    parameters = {"rank": 8, "scale": 20.0, "dropout": 0.0}
    set_config(adapter, "adapter_config.json", fine_tune_type="dora", lora_parameters=parameters)
    with pytest.raises(ValueError, match="doesn't support DoRA"):
        mlx_fuse(base, adapter)
    if whole:
        assert "block_sparse_moe" in refused(tmp_path, our_fuse, base, adapter)
        return
    # mlx-lm of old adapted some layers only: what has no tensors stays as it is.
    folder, _ = our_fuse(base, adapter, name="some")
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed
    assert all(".q_proj." in name for name in changed)


@pytest.mark.parametrize("precision", [KEEP, DEQUANTIZE])
@pytest.mark.parametrize("form", ["3bit", "5bit", "6bit"])
def test_dora_on_a_base_whose_bits_do_not_divide_32_is_refused(
    form: str, precision: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = fuse_cases.make_base(tmp_path / "base", Case("llama", form, "dora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, kind="dora")
    with pytest.raises(ValueError, match="broadcast"):
        mlx_fuse(base, adapter, dequantize=precision == DEQUANTIZE)
    assert "model.layers." in refused(tmp_path, our_fuse, base, adapter, precision)


@pytest.mark.parametrize("form", ["bf16", "4bit"])
def test_the_head_of_a_base_that_has_none_is_refused(
    form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    bits = 4 if form == "4bit" else None
    untied = tiny_models.make_base(tmp_path / "untied", kind="qwen2", tied=False, bits=bits)
    tied = tiny_models.make_base(tmp_path / "tied", kind="qwen2", tied=True, bits=bits)
    keys = ["lm_head", "self_attn.q_proj"]
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", untied, keys=keys)
    with pytest.raises(ValueError, match=r"lm_head\.lora_a"):
        mlx_fuse(tied, adapter)
    assert "lm_head" in refused(tmp_path, our_fuse, tied, adapter)


def test_the_head_of_a_tied_base_of_the_hub_is_refused(
    tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    """Its file holds a second copy, which mlx-lm drops."""
    untied = tiny_models.make_base(tmp_path / "untied", kind="qwen2", tied=False)
    tied = tiny_models.make_base(tmp_path / "tied", kind="qwen2", tied=True, layout="hf")
    assert "lm_head.weight" in tiny_models.read_tensors(tied)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", untied, keys=["lm_head"])
    with pytest.raises(ValueError, match=r"lm_head\.lora_a"):
        mlx_fuse(tied, adapter)
    assert "lm_head" in refused(tmp_path, our_fuse, tied, adapter)


@pytest.mark.parametrize("form", ["mxfp8", "nvfp4"])
def test_quantised_activations_are_refused(
    form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = fuse_cases.make_base(tmp_path / "base", Case("llama", form, "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, keys=["self_attn.q_proj"])
    set_config(base, quantize_activations=True)
    with pytest.raises(ValueError, match="QQLinear"):
        mlx_fuse(base, adapter)
    assert "activations" in refused(tmp_path, our_fuse, base, adapter)


def test_layers_of_several_updates_are_refused(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    """In afm7 one matrix has three updates, called `lora_a.0` and so on."""
    config: dict[str, Any] = {
        "model_type": "afm7",
        "vocab_size": 320,
        "hidden_dim": 64,
        "num_layers": 2,
        "num_kv_reuse_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
        "hidden_dim_scale_factor": 2.0,
    }
    base = make_class(tmp_path / "base", config)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    with pytest.raises(ValueError, match="not an adapter parameter"):
        mlx_fuse(base, adapter)
    assert "qkv_proj.lora_" in refused(tmp_path, our_fuse, base, adapter)


def make_class(folder: Path, config: dict[str, Any]) -> Path:
    """Write a base of a class that is not in `architectures`."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import _get_classes

    model_class, arguments = _get_classes(dict(config))
    model = model_class(arguments.from_dict(config))
    numbers = tree_map(lambda value: value.astype(mx.bfloat16), model.parameters())
    tiny_architectures.write_base(folder, dict(tree_flatten(numbers)), config, "mlx")
    return folder


UNKNOWN: dict[str, tuple[str, str]] = {
    "a part that there is not": (
        "model.layers.0.self_attn.q_proj.lora_a",
        "model.layers.0.self_attn.q_proj.lora_c",
    ),
    "a module that there is not": ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.x_proj"),
    "a block that there is not": ("model.layers.1.", "model.layers.7."),
    "another root": ("model.layers.0.", "base_model.model.layers.0."),
    "a norm": ("model.layers.0.self_attn.q_proj", "model.layers.0.input_layernorm"),
}


@pytest.mark.parametrize("form", ["bf16", "4bit"])
@pytest.mark.parametrize(("old", "new"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_unknown_tensors_are_refused(
    old: str, new: str, form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = fuse_cases.make_base(tmp_path / "base", Case("llama", form, "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    rewrite(adapter, lambda tensors: {name.replace(old, new): value for name, value in tensors.items()})
    with pytest.raises(ValueError, match="not an adapter parameter"):
        mlx_fuse(base, adapter)
    assert new in refused(tmp_path, our_fuse, base, adapter)


@pytest.mark.parametrize("form", ["bf16", "4bit"])
def test_blocks_beyond_num_layers_are_refused(
    form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    """As mlx-lm from 0.19 to 0.21 wrote them."""
    base = fuse_cases.make_base(tmp_path / "base", Case("llama", form, "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    set_config(adapter, "adapter_config.json", num_layers=1)
    with pytest.raises(ValueError, match="not an adapter parameter"):
        mlx_fuse(base, adapter)
    assert "model.layers.0" in refused(tmp_path, our_fuse, base, adapter)


@pytest.mark.parametrize("form", ["bf16", "4bit", "mxfp4"])
@pytest.mark.parametrize("part", ["lora_a", "lora_b"])
def test_tensors_of_other_shapes_are_refused(
    part: str, form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    import mlx.core as mx

    base = fuse_cases.make_base(tmp_path / "base", Case("llama", form, "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    name = f"model.layers.1.mlp.up_proj.{part}"
    axis = 0 if part == "lora_a" else 1
    rewrite(adapter, lambda tensors: tensors | {name: mx.concatenate([tensors[name]] * 2, axis=axis)})
    with pytest.raises(ValueError, match="does not match"):
        mlx_fuse(base, adapter)
    assert "model.layers.1.mlp.up_proj" in refused(tmp_path, our_fuse, base, adapter)


def test_experts_of_an_old_adapter_are_refused(tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse) -> None:
    """Before October 2025 the factors of all experts were one matrix."""
    base = fuse_cases.make_base(tmp_path / "base", Case("qwen3_moe", "4bit", "experts"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, keys=["mlp.switch_mlp.up_proj"])
    rewrite(
        adapter,
        lambda tensors: {
            name: value.reshape(-1, value.shape[-1]) if name.endswith("lora_a") else value
            for name, value in tensors.items()
        },
    )
    with pytest.raises(ValueError, match="does not match"):
        mlx_fuse(base, adapter)
    assert "switch_mlp.up_proj" in refused(tmp_path, our_fuse, base, adapter)


def test_a_whole_tensor_that_the_base_does_not_have_is_refused(
    tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    base = fuse_cases.make_base(tmp_path / "base", Case("llama", "bf16", "full"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, kind="full")
    rewrite(adapter, lambda tensors: tensors | {"model.layers.9.norm.weight": next(iter(tensors.values()))})
    with pytest.raises(ValueError, match="not an adapter parameter"):
        mlx_fuse(base, adapter)
    assert "model.layers.9.norm.weight" in refused(tmp_path, our_fuse, base, adapter)


def test_a_file_of_code_is_refused(tmp_path: Path, our_fuse: OurFuse) -> None:
    base = fuse_cases.make_base(tmp_path / "base", Case("llama", "bf16", "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    (base / "model.py").write_text("raise SystemExit('this must never run')\n")
    set_config(base, model_file="model.py")
    assert "model_file" in refused(tmp_path, our_fuse, base, adapter)


# Where two results are possible


@pytest.mark.parametrize("form", ["bf16", "f16", "4bit"])
def test_magnitudes_in_the_format_of_the_base(
    form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    """The trainer writes float32; a converted adapter may not, and then the result is not float32 either."""
    import mlx.core as mx

    base = fuse_cases.make_base(tmp_path / "base", Case("llama", form, "dora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, kind="dora")
    dtype = mx.float16 if form == "f16" else mx.bfloat16
    rewrite(adapter, lambda tensors: {name: value.astype(dtype) for name, value in tensors.items()})
    ours, _ = our_fuse(base, adapter)
    assert_same(mlx_fuse(base, adapter), ours)


@pytest.mark.parametrize("form", ["4bit", "mxfp4"])
def test_matrices_of_each_head_become_plain_numbers_too(
    form: str, tmp_path: Path, mlx_fuse: MlxFuse, our_fuse: OurFuse
) -> None:
    """`mlx_lm.fuse --dequantize` leaves them packed and says that nothing is: what it wrote cannot be loaded."""
    base = fuse_cases.make_base(tmp_path / "base", Case("deepseek_v3", form, "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base, keys=["self_attn.o_proj"])
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
