"""The GGUF converter's weights and configuration, held against known ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_llama import (
    HEAD_DIM,
    HIDDEN,
    LAYERS,
    Array,
    bf16_values,
    gguf,
    gguf_tensors,
    hf_weights,
    read_bf16,
    write_gguf,
)  # fmt: skip

from fusery.registry.engine.arithmetic import BF16, F32, encode
from fusery.registry.engine.base import Source
from fusery.registry.engine.matrices import StoredMatrix
from fusery.registry.errors import BadInputError
from fusery.registry.models import gguf_convert as convert
from fusery.registry.models.gguf_convert import convert_gguf, kind_of
from fusery.registry.models.gguf_header import read_header
from fusery.registry.models.gguf_tokenizer import convert_tokenizer
from fusery.storage.safetensors import Tensor


@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, True)], ids=["tied", "untied-with-biases"])
def test_float32_weights_come_back_exactly(tmp_path: Path, tied: bool, bias: bool) -> None:
    weights = hf_weights(tied=tied, bias=bias)
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", gguf_tensors(weights)), tmp_path / "folder")
    found = read_bf16(tmp_path / "folder")
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], weights[name]) for name in weights)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["attention_bias"], config["mlp_bias"]) == (tied, bias, bias)


def test_other_types_are_dequantised_then_rounded_to_nearest(tmp_path: Path) -> None:
    weights = hf_weights()
    for kind in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        quantisation = gguf.GGMLQuantizationType[kind]
        tensors: dict[str, Any] = {}
        expected = {}
        for (name, value), (source, rows) in zip(weights.items(), gguf_tensors(weights).items(), strict=True):
            if value.ndim == 1:
                tensors[source], expected[name] = rows, value
                continue
            tensors[source] = (gguf.quants.quantize(rows, quantisation), quantisation)
            # Rows are quantised one by one, so quantising before or after their permutation is the same.
            real = gguf.quants.dequantize(gguf.quants.quantize(value, quantisation), quantisation)
            expected[name] = nearest_bf16(real)
        convert_gguf(write_gguf(tmp_path / f"{kind}.gguf", tensors), tmp_path / kind)
        found = read_bf16(tmp_path / kind)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_k_quants_are_dequantised(tmp_path: Path) -> None:
    # They come in rows of 256, and only this test needs them: a wider MLP in one direction is enough.
    plain = {name: value for name, value in gguf_tensors(hf_weights()).items() if "ffn_down" not in name}
    for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"):
        quantisation = gguf.GGMLQuantizationType[kind]
        tensors: dict[str, Any] = dict(plain)
        blocks, size = gguf.GGML_QUANT_SIZES[quantisation]
        raw = np.random.default_rng(0).integers(0, 16, (HIDDEN, size), dtype=np.uint8)
        for layer in range(LAYERS):
            tensors[f"blk.{layer}.ffn_down.weight"] = (raw, quantisation)
            for source in ("ffn_gate", "ffn_up"):
                tensors[f"blk.{layer}.{source}.weight"] = bf16_values((blocks, HIDDEN), layer)
        metadata = {"llama.feed_forward_length": blocks}
        convert_gguf(write_gguf(tmp_path / f"{kind}.gguf", tensors, metadata=metadata), tmp_path / kind)
        expected = nearest_bf16(gguf.quants.dequantize(raw, quantisation))
        found = read_bf16(tmp_path / kind)["model.layers.1.mlp.down_proj.weight"]
        assert np.array_equal(found, expected)
        assert expected.any()


def nearest_bf16(values: Array) -> Array:
    mx = pytest.importorskip("mlx.core")
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def test_configuration_is_complete(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    known = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "max_position_embeddings": 512}
    known |= {"rope_theta": 50000.0, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "head_dim": HEAD_DIM}
    assert {name: config[name] for name in known} == known
    assert json.loads((converted / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert not list(converted.glob("*.part"))


def test_same_file_gives_same_bytes(
    tmp_path: Path, good_bytes: bytes, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "again.gguf").write_bytes(good_bytes)
    monkeypatch.setattr(convert, "BLOCK_WEIGHTS", 200)  # three rows, which cut no head and leave a rest
    convert_gguf(tmp_path / "again.gguf", tmp_path / "folder")
    for file in converted.iterdir():
        assert (tmp_path / "folder" / file.name).read_bytes() == file.read_bytes(), file.name


def test_llama3_rotary_scaling_is_recognised(tmp_path: Path) -> None:
    frequencies = 1 / 50000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    factors = []
    for wavelength in 2 * np.pi / frequencies:  # convert_hf_to_gguf.py, factor 8
        smooth = (8192 / wavelength - 1) / 3
        middle = 1 / ((1 - smooth) / 8 + smooth)
        factors.append(1.0 if wavelength < 8192 / 4 else 8.0 if wavelength > 8192 else middle)
    tensors = gguf_tensors(hf_weights()) | {"rope_freqs.weight": np.array(factors, np.float32)}
    convert_gguf(write_gguf(tmp_path / "scaled.gguf", tensors), tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_linear_rotary_scaling_is_kept(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    path = write_gguf(tmp_path / "tiny.gguf", metadata=scaling)
    convert_gguf(path, tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.5}


@pytest.mark.parametrize(
    ("shape", "wanted", "kind"),
    [
        ((4, 64), "q8_0", "Q8_0"),
        ((4, 48), "q8_0", "F16"),  # as llama.cpp falls back
        ((4, 48), "f32", "F32"),
        ((4, 48), None, "BF16"),
        ((64,), "q8_0", "F32"),
    ],
)
def test_kinds_of_tensors(shape: tuple[int, ...], wanted: str | None, kind: str) -> None:
    assert kind_of(StoredMatrix("x", shape, BF16, (), None, {}), wanted) == kind


def test_blocks_of_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "BLOCK_WEIGHTS", 64)  # two rows, and a rest
    values = np.random.default_rng(1).standard_normal((5, 32), np.float32)
    path = tmp_path / "x"

    def written(values: Array, kind: str, head: int | None = None) -> bytes:
        path.write_bytes(values.tobytes())
        source = Source("x", Tensor("x", "F32", values.shape, 0, values.nbytes))
        matrix = StoredMatrix("x", values.shape, F32, (source,), None, {"x": path})
        return b"".join(convert.blocks(matrix, kind, head))

    assert written(values, "F32") == values.tobytes()
    assert written(values, "F16") == values.astype(np.float16).tobytes()
    assert written(values, "BF16") == encode(values, BF16).tobytes()
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    assert written(values, "Q8_0") == gguf.quants.quantize(values, q8_0).tobytes()
    assert written(values[:4], "F32", 4) == values[[0, 2, 1, 3]].tobytes()
    with pytest.raises(BadInputError):
        written(values * np.float32(1e6), "F16")
    assert written(values * np.float32(np.inf), "F16")


def test_a_first_token_is_added_if_there_is_one(tmp_path: Path, good_bytes: bytes) -> None:
    (tmp_path / "good.gguf").write_bytes(good_bytes)
    metadata = dict(read_header(tmp_path / "good.gguf").metadata)
    vocab = len(metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
    metadata |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 1}
    assert convert_tokenizer(metadata, vocab, 64).config["add_bos_token"] is True
    del metadata["tokenizer.ggml.bos_token_id"]
    assert convert_tokenizer(metadata, vocab, 64).config["add_bos_token"] is False
