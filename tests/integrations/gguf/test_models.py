"""Models written as GGUF: read by llama.cpp itself, by transformers, by the `gguf` package and by our own reader."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from consumers import llama_cpp_logits, mlx_logits, transformers_logits

from fusery.integrations.gguf.model import read_model, write_model_gguf
from fusery.registry.bundles.writing import HashedFile
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.models.gguf_convert import convert_gguf

gguf = pytest.importorskip("gguf")

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama"},
    "llama with biases": {"kind": "llama", "bias": True},
    "llama of the hub": {"kind": "llama", "tied": True, "layout": "hf"},
    "mistral in parts": {"kind": "mistral", "shards": 3},
    "qwen2": {"kind": "qwen2", "tied": True},
    "qwen3": {"kind": "qwen3"},
    "linear rotary scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "rotary scaling of llama 3": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}},
}


def make_base(folder: Path, **settings: Any) -> Path:
    return tiny_models.make_base(
        folder, **{"dtype": "float32", "layers": 2, "hidden": 64, "intermediate": 128, **settings}
    )


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def write(folder: Path, path: Path, kind: str | None = None) -> Path:
    model = read_model({file.name: file for file in folder.iterdir()})
    with path.open("xb") as file:
        write_model_gguf(HashedFile(file), model, {"general.type": "model"}, kind)
    return path


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_llama_cpp_answers_as_mlx_lm_does(shape: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", **{key: shape[key] for key in shape if key != "rope_scaling"})
    plain = mlx_logits(base)
    if "rope_scaling" in shape:
        edit_config(base, rope_scaling=shape["rope_scaling"])
    ours = mlx_logits(base)
    assert (np.abs(plain - ours).max() > 1e-2) == ("rope_scaling" in shape)
    path = write(base, tmp_path / "model.gguf")
    assert np.abs(llama_cpp_logits(path, [], tmp_path) - ours).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_reads_it_as_mlx_lm_does(kind: Any, tmp_path: Path) -> None:
    """Not qwen3: of that, transformers takes the heads' width from nowhere but its own default, which is 128."""
    base = make_base(tmp_path / "base", kind=kind)
    path = write(base, tmp_path / "model.gguf")
    ours = mlx_logits(base)
    assert np.abs(transformers_logits(path, tmp_path) - ours).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"bias": True}], ids=["head", "tied", "biases"])
def test_our_own_reader_gives_the_same_model_back(settings: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype="bfloat16", **settings)
    convert_gguf(write(base, tmp_path / "model.gguf"), tmp_path / "back")
    assert tiny_models.read_tensors(tmp_path / "back") == tiny_models.read_tensors(base)
    ours, back = (json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "back"))
    assert {key: back[key] for key in ours if key != "eos_token_id"} == {
        key: value for key, value in ours.items() if key != "eos_token_id"
    }
    assert back["eos_token_id"] == [258, 256]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"bits": 4, "dtype": "bfloat16"}, "BF16"), ({"bits": 8, "group_size": 32, "dtype": "float16"}, "F16")],
    ids=["4 bits", "8 bits"],
)
def test_quantised_models_are_dequantised(settings: dict[str, Any], kind: str, tmp_path: Path) -> None:
    import mlx.core as mx

    base = make_base(tmp_path / "base", **settings)
    found = tensors(write(base, tmp_path / "model.gguf"))
    stored = mx.load(str(base / "model.safetensors"))
    for name, target in (("mlp.down_proj", "ffn_down"), ("self_attn.o_proj", "attn_output")):
        parts = [stored[f"model.layers.1.{name}.{part}"] for part in ("weight", "scales", "biases")]
        expected = mx.dequantize(*parts, group_size=settings.get("group_size", 64), bits=settings["bits"])
        values, type_name = found[f"blk.1.{target}.weight"]
        assert type_name == kind
        assert np.array_equal(values, np.array(expected.astype(mx.float32)))


def test_other_formats_are_as_near_as_they_can_be(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    whole = tensors(write(base, tmp_path / "whole.gguf"))
    ours = mlx_logits(base)
    for kind, error in (("f32", 0), ("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 5e-3)):
        path = write(base, tmp_path / f"{kind}.gguf", kind)
        for name, (values, type_name) in tensors(path).items():
            expected = whole[name][0]
            assert type_name == (kind.upper() if expected.ndim == 2 else "F32")
            assert np.abs(values - expected).max() <= error * np.abs(expected).max()
        theirs = llama_cpp_logits(path, [], tmp_path)
        assert np.abs(theirs - ours).max() <= max(10 * error, 1e-5) * np.abs(ours).max()
    assert (tmp_path / "f32.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    with pytest.raises(BadInputError, match="q4_k"):
        write(base, tmp_path / "model.gguf", "q4_k")


def test_a_number_too_large_for_f16_is_said(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype="bfloat16")
    weights = {
        name: (dtype, np.frombuffer(data, np.uint16).reshape(shape).copy())
        for name, (dtype, shape, data) in tiny_models.read_tensors(base).items()
    }
    weights["lm_head.weight"][1][0, 0] = 0x7F00
    tiny_models.write_tensors(base / "model.safetensors", weights, {"format": "mlx"})
    with pytest.raises(BadInputError, match="lm_head.weight"):
        write(base, tmp_path / "model.gguf", "f16")


REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("'gemma'", {"model_type": "gemma"}),
    ("'yarn'", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    ("traditional", {"rope_traditional": True}),
    ("sliding window", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("window of 8", {"model_type": "mistral", "sliding_window": 8}),
    ("'gelu'", {"hidden_act": "gelu"}),
    ("code", {"model_file": "x.py"}),
    ("model.layers.2.input_layernorm.weight", {"num_hidden_layers": 3}),
    ("'model.layers.1", {"num_hidden_layers": 1}),
    ("mlp.gate_proj.weight: [128, 64]", {"intermediate_size": 96}),
)


def test_what_llama_cpp_would_compute_differently_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    config = (base / "config.json").read_bytes()
    for number, (named, changes) in enumerate(REFUSED):
        (base / "config.json").write_bytes(config)
        edit_config(base, **changes)
        with pytest.raises(BadInputError) as caught:
            write(base, tmp_path / f"{number}.gguf")
        assert named in caught.value.message
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("package", ["gguf", "tokenizers"])
def test_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        read_model({"config.json": tmp_path / "missing"})
    assert caught.value.hint == "pip install 'fusery[gguf]'"


def tensors(path: Path) -> dict[str, tuple[np.ndarray[Any, Any], str]]:
    from gguf.quants import dequantize

    return {
        tensor.name: (dequantize(tensor.data, tensor.tensor_type), tensor.tensor_type.name)
        for tensor in gguf.GGUFReader(path).tensors
    }
