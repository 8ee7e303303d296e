from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinymodels

from fusery.registry.errors import FusionUnsupportedError
from fusery.registry.fusion.plan import Compute, Copy, Plan
from fusery.storage.errors import FormatError, FuseryError, MissingFileError
from fusery.storage.safetensors import build_header

Planner = Callable[..., Plan]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tinymodels.make_base(tmp_path / "base", bits=4, layers=3)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tinymodels.make_base(tmp_path / "dense", layers=3)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tinymodels.make_adapter(tmp_path / "adapter", base, num_layers=1)


def rewrite(folder: Path, change: Callable[[dict[str, tinymodels.Raw]], None], form: str = "mlx") -> None:
    """Change the tensors of a model or adapter in place."""
    path = next(folder.glob("*.safetensors"))
    raw = {
        name: (dtype, np.frombuffer(data, _NUMPY[dtype]).reshape(shape))
        for name, (dtype, shape, data) in tinymodels.read_tensors(path).items()
    }
    change(raw)
    tinymodels.write_tensors(path, raw, {"format": form})


_NUMPY = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32, "U32": np.uint32, "U8": np.uint8}


def test_untouched_ranges_are_joined(base: Path, adapter: Path, planned: Planner) -> None:
    plan = planned(base, adapter)
    copies = [step for step in plan.steps if isinstance(step, Copy)]
    computed = [step.module.path for step in plan.steps if isinstance(step, Compute)]
    assert computed == [f"model.layers.2.{key}" for key in tinymodels.LINEAR]
    assert len(copies) == 2
    assert sum(copy.size for copy in copies) < plan.size


def test_every_byte_of_the_outputs_is_planned_once(base: Path, adapter: Path, planned: Planner) -> None:
    for precision in ("keep", "dequantize"):
        plan = planned(base, adapter, precision, shard=200_000)
        assert len(plan.outputs) > 1
        spans: dict[int, list[tuple[int, int]]] = {
            n: [(0, len(out.header))] for n, out in enumerate(plan.outputs)
        }
        for step in plan.steps:
            if isinstance(step, Copy):
                spans[step.place.output].append((step.place.offset, step.size))
                continue
            module, rows = step.module, step.module.rows
            grid = module.grid
            assert grid is not None
            row = grid.words(module.columns) * 4 if step.scales else module.columns * module.form.size
            spans[step.weight.output].append((step.weight.offset, rows * row))
            for place in filter(None, (step.scales, step.biases)):
                width = module.columns // grid.group_size * module.form.size
                spans[place.output].append((place.offset, rows * width))
        for number, output in enumerate(plan.outputs):
            position = 0
            for begin, size in sorted(spans[number]):
                assert begin == position
                position += size
            assert position == output.size


def test_shards_are_named_and_indexed_as_mlx_lm_does(dense: Path, adapter: Path, planned: Planner) -> None:
    one, many = planned(dense, adapter), planned(dense, adapter, shard=300_000)
    assert [output.name for output in one.outputs] == ["model.safetensors"]
    count = len(many.outputs)
    assert many.outputs[0].name == f"model-00001-of-{count:05d}.safetensors"
    index = json.loads(many.documents["model.safetensors.index.json"])
    assert set(index["weight_map"].values()) == {output.name for output in many.outputs}
    assert index["metadata"] == json.loads(one.documents["model.safetensors.index.json"])["metadata"]


def test_further_metadata_goes_into_the_header(base: Path, adapter: Path, planned: Planner) -> None:
    plan = planned(base, adapter, metadata={"fusery.key": "ab" * 32})
    header = json.loads(plan.outputs[0].header[8:])
    assert header["__metadata__"] == {"format": "mlx", "fusery.key": "ab" * 32}


def test_the_scale_can_be_overridden(base: Path, adapter: Path, planned: Planner) -> None:
    assert planned(base, adapter).adapter.scale == 20.0
    assert planned(base, adapter, scale=1.5).adapter.scale == 1.5


def test_only_known_files_are_copied_and_never_code(base: Path, adapter: Path, planned: Planner) -> None:
    for name in (
        "modeling.py",
        "tokenizer.py",
        "README.md",
        "LICENSE",
        "weights.bin",
        "consolidated.safetensors",
    ):
        (base / name).write_text("x")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool.jinja").write_text("x")
    assert planned(base, adapter).copies == (
        "LICENSE",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    )


ADAPTER_CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"fine_tune_type": "dora"}, "DoRA"),
    "old dora": ({"use_dora": True}, "DoRA"),
    "full": ({"fine_tune_type": "full", "lora_parameters": None}, "full fine-tuning"),
    "unknown": ({"fine_tune_type": "x" * 99}, "xxx"),
    "no num_layers": ({"num_layers": None}, "num_layers"),
    "no scale": ({"lora_parameters": {"rank": 8, "alpha": 16}}, "no scale, alpha is something else"),
    "scale is text": ({"lora_parameters": {"rank": 8, "scale": "20"}}, "scale '20'"),
    "scale is true": ({"lora_parameters": {"rank": 8, "scale": True}}, "scale 'True'"),
    "scale is infinite": ({"lora_parameters": {"rank": 8, "scale": float("inf")}}, "scale 'inf'"),
    "rank is another": ({"lora_parameters": {"rank": 4, "scale": 20.0}}, "rank 8, its configuration says 4"),
    "keys are text": ({"lora_parameters": {"rank": 8, "scale": 20.0, "keys": "q_proj"}}, "not a list"),
    "keys leave modules out": (
        {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": ["self_attn.q_proj"]}},
        "its own configuration does not adapt",
    ),
    "keys name a norm": (
        {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": [*tinymodels.LINEAR, "model.norm"]}},
        "not a linear layer",
    ),
}

CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({"model_file": "m.py"}, "model_file"),
    "no model type": ({"model_type": None}, "model_type"),
    "loading changes weights": ({"model_type": "baichuan_m1"}, "mlx engine"),
    "layers of another kind": ({"model_type": "afm7"}, "mlx engine"),
    "quantised activations": ({"quantize_activations": True}, "activations"),
    "awq": ({"quantization": None, "quantization_config": {"quant_method": "awq"}}, "awq"),
    "awq in the text part": (
        {
            "quantization": None,
            "quantization_config": None,
            "text_config": {"quantization_config": {"quant_method": "x"}},
        },
        "quantised by x",
    ),
    "quantisation not said": ({"quantization": None, "quantization_config": None}, "does not say so"),
    "quantisation malformed": ({"quantization": {"bits": 4}}, "malformed"),
    "bits as text": ({"quantization": {"bits": "4", "group_size": 64}}, "malformed"),
    "other bits for a module": (
        {
            "quantization": {
                "bits": 4,
                "group_size": 64,
                "model.layers.2.mlp.up_proj": {"bits": 8, "group_size": 64},
            }
        },
        "do not fit the 8 bits",
    ),
    "bits of a module as text": (
        {
            "quantization": {
                "bits": 4,
                "group_size": 64,
                "model.layers.2.mlp.up_proj": {"bits": "8", "group_size": 64},
            }
        },
        "do not fit the 8 bits",
    ),
    "module said to be dense": (
        {"quantization": {"bits": 4, "group_size": 64, "model.layers.2.mlp.up_proj": False}},
        "does not say so",
    ),
    "another format": (
        {
            "quantization": {
                "bits": 4,
                "group_size": 64,
                "model.layers.2.mlp.up_proj": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
            }
        },
        "mxfp4",
    ),
}


@pytest.mark.parametrize(("change", "reason"), ADAPTER_CONFIG.values(), ids=ADAPTER_CONFIG.keys())
def test_adapters_that_are_refused(
    change: dict[str, Any], reason: str, base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(FusionUnsupportedError, match=reason) as caught:
        planned(base, adapter, adapter_config=change)
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(("change", "reason"), CONFIG.values(), ids=CONFIG.keys())
def test_bases_that_are_refused(
    change: dict[str, Any], reason: str, base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(FusionUnsupportedError, match=reason) as caught:
        planned(base, adapter, config=change)
    assert len(caught.value.message) < 250


def test_a_base_in_the_layout_of_the_hub_needs_a_known_architecture(
    tmp_path: Path, adapter: Path, planned: Planner
) -> None:
    base = tinymodels.make_base(tmp_path / "hub", layout="hf", layers=3)
    assert planned(base, adapter).modules
    assert planned(base, adapter, config={"model_type": "mistral"}).modules
    with pytest.raises(FusionUnsupportedError, match="architecture 'mixtral'") as caught:
        planned(base, adapter, config={"model_type": "mixtral"})
    assert "mlx_lm.convert" in str(caught.value.hint)


def test_what_mlx_lm_drops_is_not_written(tmp_path: Path, planned: Planner) -> None:
    base = tinymodels.make_base(tmp_path / "hub", kind="qwen2", layout="hf", tied=True)
    adapter = tinymodels.make_adapter(tmp_path / "adapter", base)
    names = set(json.loads(planned(base, adapter).outputs[0].header[8:]))
    assert "lm_head.weight" not in names
    assert not any("inv_freq" in name for name in names)
    untied = set(
        json.loads(planned(base, adapter, config={"tie_word_embeddings": False}).outputs[0].header[8:])
    )
    assert "lm_head.weight" in untied
    with pytest.raises(FusionUnsupportedError, match="cannot load this base"):
        planned(base, adapter, config={"model_type": "qwen3"})


def test_layers_that_may_or_may_not_be_wrapped_are_refused(
    base: Path, tmp_path: Path, planned: Planner
) -> None:
    partial = tinymodels.make_adapter(
        tmp_path / "partial", base, num_layers=1, skip=["model.layers.2.mlp.up_proj"]
    )
    assert len(planned(base, partial).modules) == 7
    with pytest.raises(FusionUnsupportedError, match="no tensors for model.layers.2.mlp.up_proj"):
        planned(base, partial, config={"model_type": "some_mixture"})
    explicit = {"lora_parameters": {"rank": 8, "scale": 20.0, "keys": list(tinymodels.LINEAR)}}
    assert (
        len(planned(base, partial, config={"model_type": "some_mixture"}, adapter_config=explicit).modules)
        == 7
    )


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, base: Path, planned: Planner) -> None:
    other = tinymodels.make_base(tmp_path / "other", hidden=64, layers=3)
    with pytest.raises(FusionUnsupportedError, match="do not fit") as caught:
        planned(base, tinymodels.make_adapter(tmp_path / "narrow", other, num_layers=1))
    assert caught.value.hint == "was it trained on another base?"
    deeper = tinymodels.make_base(tmp_path / "deeper", layers=5)
    with pytest.raises(FusionUnsupportedError, match="which the base does not have"):
        planned(base, tinymodels.make_adapter(tmp_path / "deep", deeper, num_layers=1))


ADAPTER_TENSORS: dict[str, tuple[Callable[[dict[str, tinymodels.Raw]], None], str]] = {
    "magnitude": (lambda t: t.update({"model.layers.2.mlp.up_proj.m": t[_A]}), "DoRA"),
    "a stranger": (lambda t: t.update({"model.norm.weight": t[_A]}), "not a LoRA tensor"),
    "half a pair": (lambda t: t.pop(_B), "only lora_a of model.layers.2.mlp.up_proj"),
    "whole numbers": (lambda t: t.update({_A: ("U32", t[_A][1].view(np.uint32))}), "not a float format"),
    "switch layer": (lambda t: t.update({_A: ("F32", t[_A][1].reshape(2, 64, 8))}), "switch layer"),
    "ranks differ": (lambda t: t.update({_A: ("F32", t[_A][1].reshape(64, 16))}), "do not multiply"),
    "one dimension": (lambda t: t.update({_A: ("F32", t[_A][1].reshape(-1))}), "do not multiply"),
    "no numbers": (lambda t: t.update({_A: ("F32", np.zeros((0, 8), np.float32))}), "do not multiply"),
}
_A, _B = "model.layers.2.mlp.up_proj.lora_a", "model.layers.2.mlp.up_proj.lora_b"


@pytest.mark.parametrize(("change", "reason"), ADAPTER_TENSORS.values(), ids=ADAPTER_TENSORS.keys())
def test_adapter_tensors_that_are_refused(
    change: Callable[[dict[str, tinymodels.Raw]], None],
    reason: str,
    base: Path,
    adapter: Path,
    planned: Planner,
) -> None:
    rewrite(adapter, change)
    with pytest.raises(FusionUnsupportedError, match=reason):
        planned(base, adapter)


_W = "model.layers.2.mlp.up_proj"
BASE_TENSORS: dict[str, tuple[Callable[[dict[str, tinymodels.Raw]], None], str]] = {
    "global scale": (lambda t: t.update({f"{_W}.global_scale": t[f"{_W}.scales"]}), "quantised in a way"),
    "no biases": (lambda t: t.pop(f"{_W}.biases"), "format"),
    "scales of one byte": (
        lambda t: t.update({f"{_W}.scales": ("U8", np.zeros((256, 4), np.uint8))}),
        "format",
    ),
    "biases of another shape": (
        lambda t: t.update({f"{_W}.biases": ("BF16", np.zeros((256, 1), np.uint16))}),
        "do not fit",
    ),
    "words of another type": (
        lambda t: t.update({f"{_W}.weight": ("F32", t[f"{_W}.weight"][1].view(np.float32))}),
        "do not fit",
    ),
    "a format that MLX reads as bytes": (
        lambda t: t.update({"model.extra": ("F8_E4M3", np.zeros(4, np.uint8))}),
        "F8_E4M3",
    ),
}


@pytest.mark.parametrize(("change", "reason"), BASE_TENSORS.values(), ids=BASE_TENSORS.keys())
def test_base_tensors_that_are_refused(
    change: Callable[[dict[str, tinymodels.Raw]], None],
    reason: str,
    base: Path,
    adapter: Path,
    planned: Planner,
) -> None:
    rewrite(base, change)
    with pytest.raises(FusionUnsupportedError, match=reason):
        planned(base, adapter)


def test_a_dense_weight_of_whole_numbers_is_refused(dense: Path, adapter: Path, planned: Planner) -> None:
    rewrite(dense, lambda t: t.update({f"{_W}.weight": ("U32", np.zeros((256, 128), np.uint32))}))
    with pytest.raises(FusionUnsupportedError, match="not in a float format"):
        planned(dense, adapter)


def test_of_several_lists_of_blocks_the_adapted_one_is_meant(
    tmp_path: Path, dense: Path, adapter: Path, planned: Planner
) -> None:
    rewrite(dense, lambda t: t.update({"vision_tower.blocks.0.proj.weight": t[f"{_W}.weight"]}))
    assert len(planned(dense, adapter).modules) == 7
    rewrite(dense, lambda t: t.update({"model.layers_too.layers.0.proj.weight": t[f"{_W}.weight"]}))
    assert len(planned(dense, adapter).modules) == 7
    both = tinymodels.make_adapter(tmp_path / "both", dense, num_layers=1)
    rewrite(
        both,
        lambda t: t.update(
            {f"vision_tower.blocks.0.proj.{part}": t[f"{_W}.{part}"] for part in ("lora_a", "lora_b")}
        ),
    )
    with pytest.raises(FusionUnsupportedError, match="blocks of the model cannot be told"):
        planned(dense, both)


def test_an_adapter_of_root_modules_alone_needs_no_blocks(
    tmp_path: Path, dense: Path, planned: Planner
) -> None:
    rewrite(dense, lambda t: t.update({"vision_tower.blocks.0.proj.weight": t[f"{_W}.weight"]}))
    adapter = tinymodels.make_adapter(tmp_path / "roots", dense, keys=["lm_head", "model.embed_tokens"])
    found = {module.path: module.embedding for module in planned(dense, adapter).modules}
    assert found == {"model.embed_tokens": True, "lm_head": False}


def test_damaged_and_missing_files_are_told(base: Path, adapter: Path, planned: Planner) -> None:
    with pytest.raises(FusionUnsupportedError, match="precision 'dither'"):
        planned(base, adapter, "dither")
    weights = base / "model.safetensors"
    (base / "model-extra.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(FormatError, match="two weight files"):
        planned(base, adapter)
    (base / "model-extra.safetensors").unlink()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError, match="cut short"):
        planned(base, adapter)
    weights.unlink()
    with pytest.raises(FormatError, match="no weights"):
        planned(base, adapter)
    (adapter / "adapters.safetensors").unlink()
    weights.write_bytes(build_header([]))
    with pytest.raises((MissingFileError, FusionUnsupportedError)):
        planned(base, adapter)


def test_a_malformed_generation_config_is_passed_over_as_mlx_lm_does(
    base: Path, adapter: Path, planned: Planner
) -> None:
    (base / "generation_config.json").write_text("{")
    assert json.loads(planned(base, adapter).documents["config.json"])["eos_token_id"] == 258


def test_all_refusals_are_errors_of_fusery() -> None:
    assert issubclass(FusionUnsupportedError, FuseryError)
