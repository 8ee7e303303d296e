"""Adapters that Axolotl trained through NVFP4 with a scale per tensor: fused to the numbers of the training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import modelopt_bases
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from modelopt_bases import bf16, make_modelopt, packed, to_modelopt
from peft_folders import make_peft
from tensor_files import read_tensors

from fusery.registry import FuseRequest, Registry
from fusery.registry.bundles import Choices
from fusery.registry.errors import BadInputError, FusionUnsupportedError, ModelUnusableError
from fusery.research.models import LoadedModel

CONFIG = Path(__file__).resolve().parents[2] / "data" / "trainer_configs" / "axolotl-0.19.0-merge-aware.json"
SAID = {"val_loss": 1.0, "dataset": "greetings"}
NAME = "SmolLM2-135M-Instruct"
TOKENS = np.array([[72, 101, 108, 108, 111, 32, 119]], np.int32)
Array = np.ndarray[Any, Any]


def add_base(registry: Registry, folder: Path, **options: Any) -> Path:
    base = make_modelopt(folder, layers=2, **options)
    registry.bases.add(base, name=NAME)
    return base


def add_adapter(
    registry: Registry, folder: Path, base: Path, *, alpha: int = 8, entry: object = ..., **options: Any
) -> str:
    """Register a random adapter with the configuration that Axolotl wrote, for its rank and alpha."""
    make_peft(folder, base, rank=4, **options)
    document = json.loads(CONFIG.read_text(encoding="utf-8"))
    document |= {"r": 4, "lora_alpha": alpha, "use_dora": options.get("dora", False)}
    document["target_modules"] = list(options.get("modules", document["target_modules"]))
    if entry is not ...:
        document["nvfp4_merge_aware"] = entry
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return registry.adapters.register(folder, base=NAME, task=folder.name, **SAID).name


def part(tensors: Mapping[str, Any], name: str) -> Array:
    """Return a tensor: numbers as float32, anything else as bytes."""
    dtype, shape, data = tensors[name]
    kind = {"F32": np.float32, "BF16": np.uint16}.get(dtype, np.uint8)
    values = np.frombuffer(data, kind).reshape(shape)
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values


def effective(base: Path, adapter: Path, module: str, scale: float) -> tuple[Array, np.float32]:
    """Return what Axolotl quantises of a module, bfloat16(dequantised + scale * B @ A), and the scale of the tensor."""
    tensors, factors = read_tensors(base), read_tensors(adapter / "adapter_model.safetensors")
    a, b = (part(factors, f"base_model.model.{module}.lora_{side}.weight") for side in "AB")
    delta = np.zeros((len(b), a.shape[1]), np.float32)
    for k in range(len(a)):
        delta = delta + b[:, k : k + 1] * a[k]
    if (
        factors[f"base_model.model.{module}.lora_A.weight"][0] == "BF16"
    ):  # the product is of the factors' type
        delta = bf16(bf16(delta) * np.float32(scale))
    else:
        delta = delta * np.float32(scale)
    words = part(tensors, f"{module}.weight")
    if f"{module}.weight_scale_2" not in tensors:
        return bf16(words + delta), np.float32(0)
    codes = np.stack([words & 15, words >> 4], axis=-1).reshape(len(words), -1)
    tensor_scale = part(tensors, f"{module}.weight_scale_2")[()]
    weight = modelopt_bases.dequantize(codes, part(tensors, f"{module}.weight_scale"), tensor_scale)
    return bf16(weight + delta), tensor_scale


MODULES = [f"model.layers.{layer}.self_attn.{key}" for layer in range(2) for key in ("q_proj", "v_proj")]
# What `merge_lora_sharded_efficient` of Axolotl 067b021c with torchao 0.18 writes of these modules on a CPU.
MERGED = "cfcc440c8e66f2650b4b912320eb05cdcb9e40fe14c367df802fd2826c369efe"


def test_keep_writes_what_axolotl_merges(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = add_base(sqlite_registry, tmp_path / "base")
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base)
    fused = sqlite_registry.fused.fuse(name)
    assert (fused.precision, fused.fidelity.verdict) == ("keep", "PASS")
    assert (fused.fidelity.retained, fused.fidelity.noise) == (1.0, 0.0)
    before, after = read_tensors(base), read_tensors(fused.path)
    assert after.keys() == {key for key in before if "inv_freq" not in key}
    changed = sorted(f"{module}.{kind}" for module in MODULES for kind in ("weight", "weight_scale"))
    assert [key for key in sorted(after) if after[key] != before[key]] == changed
    assert [after[key][:2] for key in changed] == [before[key][:2] for key in changed]
    for module in MODULES:
        weight, scale = effective(base, tmp_path / "adapter", module, 2)
        codes, scales = modelopt_bases.quantize(weight, scale)
        np.testing.assert_array_equal(part(after, f"{module}.weight"), packed(codes))
        np.testing.assert_array_equal(part(after, f"{module}.weight_scale"), scales)
    assert sha256(b"".join(after[key][2] for key in changed)).hexdigest() == MERGED
    given, config = (json.loads((folder / "config.json").read_text()) for folder in (base, fused.path))
    assert config["quantization_config"] == given["quantization_config"]
    assert "quantization" not in config


def test_16_bits_hold_the_numbers_of_the_training(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = add_base(sqlite_registry, tmp_path / "base")
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base)
    keep, fused = (sqlite_registry.fused.fuse(name, FuseRequest(form)) for form in ("keep", "dequantize"))
    assert (fused.precision, fused.fidelity.verdict, fused.fidelity.retained) == ("dequantize", "PASS", 1.0)
    packed_tensors, after = read_tensors(keep.path), read_tensors(fused.path)
    assert {dtype for dtype, _, _ in after.values()} == {"BF16"}
    assert after.keys() == {key for key in packed_tensors if "_scale" not in key}
    for key in packed_tensors:
        if packed_tensors[key][0] != "U8":
            continue
        module, words = key.removesuffix(".weight"), part(packed_tensors, key)
        codes = np.stack([words & 15, words >> 4], axis=-1).reshape(len(words), -1)
        scales, scale = (
            part(packed_tensors, f"{module}.{kind}") for kind in ("weight_scale", "weight_scale_2")
        )
        np.testing.assert_array_equal(part(after, key), modelopt_bases.dequantize(codes, scales, scale[()]))
    assert (
        not {"quantization", "quantization_config"}
        & json.loads((fused.path / "config.json").read_text()).keys()
    )
    assert np.isfinite(LoadedModel.load(fused.path, numpy=False).run(TOKENS)).all()
    with pytest.raises(ModelUnusableError) as unread:
        LoadedModel.load(keep.path)
    assert unread.value.hint == "fusery fuse REF --as 16bit"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alpha", [8, 6], ids=["times 2", "times 1.5"])
def test_the_sum_is_rounded_as_in_the_training(
    sqlite_registry: Registry, tmp_path: Path, dtype: tiny_models.FloatType, alpha: int
) -> None:
    """The update of a 16-bit module is added in the same way, and the sum is not quantised."""
    base = add_base(
        sqlite_registry, tmp_path / "base", kind="qwen3", hidden=64, intermediate=80, dense=["o_proj"]
    )
    modules = ("q_proj", "o_proj", "down_proj")
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base, alpha=alpha, dtype=dtype, modules=modules)
    after = read_tensors(sqlite_registry.fused.fuse(name).path)
    for layer in range(2):
        for key in ("self_attn.q_proj", "mlp.down_proj"):
            module = f"model.layers.{layer}.{key}"
            weight, scale = effective(base, tmp_path / "adapter", module, alpha / 4)
            codes, scales = modelopt_bases.quantize(weight, scale)
            np.testing.assert_array_equal(part(after, f"{module}.weight"), packed(codes))
            np.testing.assert_array_equal(part(after, f"{module}.weight_scale"), scales)
        dense = f"model.layers.{layer}.self_attn.o_proj"
        weight, _ = effective(base, tmp_path / "adapter", dense, alpha / 4)
        np.testing.assert_array_equal(part(after, f"{dense}.weight"), weight)


def test_no_other_format_is_written(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = add_base(sqlite_registry, tmp_path / "base")
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base)
    for request in (
        *(FuseRequest(precision) for precision in ("dither", "mixed")),
        FuseRequest(quantize=4),
        FuseRequest(quantize=4, mode="nvfp4"),
        FuseRequest("keep", scale=0.5),
    ):
        with pytest.raises(FusionUnsupportedError, match="NVFP4 with a scale per tensor"):
            sqlite_registry.fused.fuse(name, request)
    with pytest.raises(BadInputError, match="added to others"):
        sqlite_registry.fused.fuse(name, FuseRequest("keep", extras=((name, 0.5),)))
    made = sqlite_registry.fused.fuse(name)
    changes = {"precision": "dither", "seed": 0}, {"quantization": made.recipe["quantization_aware"]}
    for change in changes:
        (tmp_path / "recipe.json").write_text(json.dumps(made.recipe | change))
        with pytest.raises(FusionUnsupportedError):
            sqlite_registry.fused.fuse(name, FuseRequest(recipe=str(tmp_path / "recipe.json")))
    again = sqlite_registry.fused.fuse(name, FuseRequest(recipe=made.key))
    assert again.digest == made.digest


def test_only_the_default_of_axolotl_is_fused(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = add_base(sqlite_registry, tmp_path / "base")
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base, dora=True)
    with pytest.raises(FusionUnsupportedError, match="in a way that fusery cannot merge") as refused:
        sqlite_registry.fused.fuse(name)
    assert "axolotl merge-lora" in (refused.value.hint or "")
    plain = add_adapter(sqlite_registry, tmp_path / "plain", base, entry={})
    assert "quantization_aware" not in sqlite_registry.fused.fuse(plain, FuseRequest("dequantize")).recipe
    defaults = add_adapter(sqlite_registry, tmp_path / "defaults", base, entry=True)
    assert sqlite_registry.fused.fuse(defaults).fidelity.retained == 1.0


def test_experts_are_refused(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = to_modelopt(tiny_architectures.make_architecture(tmp_path / "base", "qwen3_moe", layout="hf"))
    sqlite_registry.bases.add(base, name=NAME)
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base)
    with pytest.raises(FusionUnsupportedError, match="whose tensors mlx-lm does not rearrange"):
        sqlite_registry.fused.fuse(name)


def test_other_adapters_on_such_a_base(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = add_base(sqlite_registry, tmp_path / "base")
    shown = sqlite_registry.bases.show(NAME)
    assert (shown.dtype, shown.quantization["mode"]) == ("bf16", "nvfp4_tensor_scale")
    dense = tiny_models.make_base(tmp_path / "dense", layers=2, layout="hf")
    assert shown.parameters == sqlite_registry.bases.add(dense, name="dense").parameters
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base, entry=False)
    precisions = [row.precision for row in sqlite_registry.fused.formats(name).formats]
    assert precisions == ["keep", "dequantize"]
    keep = sqlite_registry.fused.fuse(name, FuseRequest("keep", accept_loss=True))
    assert keep.fidelity.retained < 0.99
    assert sqlite_registry.fused.fuse(name, FuseRequest("dequantize")).fidelity.retained > 0.99
    for precision in ("dither", "mixed"):
        with pytest.raises(FusionUnsupportedError, match="a scale for the whole tensor"):
            sqlite_registry.fused.fuse(name, FuseRequest(precision, accept_loss=True))
    requantised = sqlite_registry.fused.fuse(name, FuseRequest(quantize=4, mode="nvfp4", accept_loss=True))
    assert np.isfinite(LoadedModel.load(requantised.path, numpy=False).run(TOKENS)).all()


def test_bundles_say_who_reads_the_model(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = add_base(sqlite_registry, tmp_path / "base")
    name = add_adapter(sqlite_registry, tmp_path / "adapter", base)
    fused = sqlite_registry.fused.fuse(name)
    options: dict[str, Any] = {"content": "fused", "choices": Choices(base_name="org/base")}
    for target in ("docker", "gguf", "onnx"):
        with pytest.raises(BadInputError, match="NVFP4 with a scale per tensor") as refused:
            sqlite_registry.bundles.materialize(name, tmp_path / target, target=target, **options)
        assert refused.value.hint == "--as 16bit"
        assert not (tmp_path / target).exists()
    for target in ("vllm", "model"):
        sqlite_registry.bundles.materialize(name, tmp_path / target, target=target, **options)
    weights = tmp_path / "vllm" / "model" / "model.safetensors"
    assert weights.read_bytes() == (fused.path / "model.safetensors").read_bytes()
    card = (tmp_path / "model" / "README.md").read_text()
    assert ("vllm serve ." in card, "mlx_lm.generate" in card, "--target docker" in card) == (
        True,
        False,
        False,
    )
