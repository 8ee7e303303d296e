"""Two files have the numbers of one model, or they have not."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from fusery.registry.engine.base import Base, read_base
from fusery.registry.models.forms import difference_of_forms

MODULE = "model.layers.0.mlp.up_proj"
FORMATS = {
    "bf16": None,
    "f16": None,
    "f32": None,
    "4 bits": ("affine", 4, 64),
    "8 bits": ("affine", 8, 32),
    "3 bits": ("affine", 3, 32),
    "mxfp4": ("mxfp4", 4, 32),
    "nvfp4": ("nvfp4", 4, 16),
    "mxfp8": ("mxfp8", 8, 32),
}
DTYPES = {"f16": mx.float16, "f32": mx.float32}


def written(folder: Path, form: str, *, tuned: float = 0.0, name: str = MODULE) -> Base:
    weight = mx.random.normal((64, 128), key=mx.random.key(1)).astype(mx.bfloat16)
    weight = weight + (tuned * mx.random.normal(weight.shape, key=mx.random.key(2))).astype(mx.bfloat16)
    config: dict[str, object] = {"model_type": "llama"}
    parts = [weight.astype(DTYPES.get(form, mx.bfloat16))]
    if (quantised := FORMATS[form]) is not None:
        mode, bits, size = quantised
        parts = mx.quantize(weight, size, bits, mode=mode)
        config["quantization"] = {"mode": mode, "bits": bits, "group_size": size}
    folder.mkdir()
    tensors = {
        f"{name}.{part}": each for part, each in zip(("weight", "scales", "biases"), parts, strict=False)
    }
    tensors["model.norm.weight"] = mx.ones((128,), mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return read_base({path.name: path for path in folder.iterdir()}, config)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_a_model_is_a_form_of_it(tmp_path: Path, form: str) -> None:
    dense, other = written(tmp_path / "dense", "bf16"), written(tmp_path / "other", form)
    assert difference_of_forms(dense, other) is None is difference_of_forms(other, dense)


@pytest.mark.parametrize("form", ["bf16", "4 bits", "8 bits", "mxfp4", "nvfp4"])
def test_a_tuned_model_is_none(tmp_path: Path, form: str) -> None:
    dense = written(tmp_path / "dense", "bf16")
    for number, tuned in enumerate((0.03, 1.0)):
        other = written(tmp_path / f"other{number}", form, tuned=tuned)
        assert MODULE in (difference_of_forms(dense, other) or ""), tuned


def test_two_quantised_forms_cannot_be_compared(tmp_path: Path) -> None:
    four, eight = written(tmp_path / "four", "4 bits"), written(tmp_path / "eight", "8 bits")
    assert MODULE in (difference_of_forms(four, eight) or "")


def test_other_tensors_are_another_model(tmp_path: Path) -> None:
    dense = written(tmp_path / "dense", "bf16")
    other = written(tmp_path / "other", "bf16", name=MODULE.replace("up", "down"))
    assert "only one" in (difference_of_forms(dense, other) or "")
