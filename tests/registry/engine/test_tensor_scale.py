"""NVFP4 with a scale for the whole tensor: the steps of torchao, bit for bit, on any machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import json_peers
import modelopt_bases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelopt_bases import make_modelopt
from peft_folders import peers_python
from tensor_files import Raw, load_raw, write_tensors

from fusery.registry.engine.affine import pack, unpack
from fusery.registry.engine.arithmetic import BF16, Array, NotFiniteError, decode, encode
from fusery.registry.engine.base import read_base
from fusery.registry.engine.grids import grid_of
from fusery.registry.engine.microscaling import MODES, FloatGrid
from fusery.registry.errors import FusionUnsupportedError
from fusery.registry.models.architecture import read_architecture
from fusery.storage.errors import FormatError

CASES = json.loads(
    (Path(__file__).resolve().parents[2] / "data" / "nvfp4" / "torchao.json").read_text(encoding="utf-8")
)["cases"]
MODULE = "model.layers.0.mlp.up_proj"
pytestmark = pytest.mark.usefixtures("no_warnings")


def scaled(tensor_scale: float) -> FloatGrid:
    return replace(MODES["nvfp4"], tensor_scale=tensor_scale)


def quantized(stored: Array, tensor_scale: float) -> tuple[Array, Array, Array]:
    """Return packed codes, scales and dequantised numbers, uint16, of bfloat16 numbers."""
    grid, rows = scaled(tensor_scale), len(stored)
    groups = np.ascontiguousarray(decode(stored, BF16).reshape(-1, 16).T)
    codes, numbers = np.empty(groups.shape, np.uint32), np.empty_like(groups)
    scales = grid.quantize(groups, codes, BF16)
    grid.dequantize(codes, scales, numbers)
    packed = pack(codes, grid).view(np.uint8).reshape(rows, -1)
    return packed, scales.reshape(rows, -1), encode(numbers.T.reshape(stored.shape), BF16)


def referenced(stored: Array, tensor_scale: float) -> tuple[Array, Array, Array]:
    codes, scales = modelopt_bases.quantize(decode(stored, BF16), tensor_scale)
    numbers = modelopt_bases.dequantize(codes, scales, tensor_scale)
    return modelopt_bases.packed(codes), scales, encode(numbers, BF16)


def assert_equal(one: tuple[Array, ...], other: tuple[Array, ...]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("compute", [quantized, referenced], ids=["engine", "reference"])
@pytest.mark.parametrize("case", CASES, ids=["usual", "small scale", "odd", "smallest scale", "ties"])
def test_golden_vectors_of_torchao(
    case: dict[str, Any], compute: Callable[[Array, float], tuple[Array, ...]]
) -> None:
    theirs = [np.array(case[part]) for part in ("codes", "scales", "numbers")]
    assert_equal(compute(np.array(case["weight"], np.uint16), case["tensor_scale"]), tuple(theirs))


def weights(seed: int, rows: int, groups: int, spread: int) -> Array:
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, groups, 16)) * np.exp2(
        random.integers(-spread, spread + 1, (rows, groups, 1))
    )
    values[random.random((rows, groups)) < 0.2] = 0
    values[random.random(values.shape) < 0.1] *= -0.0
    return encode(values.reshape(rows, -1).astype(np.float32), BF16)


shapes = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 7), st.integers(0, 60))
tensor_scales = st.floats(2.0**-121, 2.0**100, width=32, allow_nan=False)


@given(shapes, tensor_scales)
def test_any_weight_as_the_reference_does(shape: tuple[int, int, int, int], tensor_scale: float) -> None:
    stored = weights(*shape)
    assert_equal(quantized(stored, tensor_scale), referenced(stored, tensor_scale))


@given(tensor_scales)
@settings(max_examples=20)
def test_every_code_with_every_scale_is_dequantised(tensor_scale: float) -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), (127, 1))
    scales = np.arange(127, dtype=np.uint8)[:, None]
    ours, words = np.empty((16, 127), np.float32), modelopt_bases.packed(codes).view(np.uint32)
    grid, spread = scaled(tensor_scale), np.empty((16, 127), np.uint32)
    unpack(words, grid, spread)
    grid.dequantize(spread, scales.reshape(-1), ours)
    theirs = modelopt_bases.dequantize(codes, scales, tensor_scale)
    np.testing.assert_array_equal(ours.T, decode(encode(theirs, BF16), BF16))


@pytest.mark.slow
def test_the_installed_torchao_does_the_same() -> None:
    for seed, spread in enumerate((0, 1, 4, 12, 40)):
        stored = weights(seed, 24, 8, spread)
        for factor in (1.0, 0.3, 7.0):
            scale = float(np.float32(np.abs(decode(stored, BF16)).max() * factor) / np.float32(2688))
            theirs = json_peers.ask(peers_python(), "torchao_peer.py", "quantize", stored.tolist(), scale)
            expected = tuple(np.array(theirs[part]) for part in ("codes", "scales", "numbers"))
            assert_equal(quantized(stored, scale), expected)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong: float) -> None:
    values = np.zeros((1, 16), np.float32)
    values[0, 3] = wrong
    with pytest.raises(NotFiniteError):
        quantized(encode(values, BF16), 1.0)


def _scale(value: float) -> Raw:
    return "F32", np.array(value, np.float32)


BROKEN: dict[str, dict[str, Raw]] = {
    "zero": {"weight_scale_2": _scale(0.0)},
    "negative": {"weight_scale_2": _scale(-1.0)},
    "not a number": {"weight_scale_2": _scale(np.nan)},
    "infinite": {"weight_scale_2": _scale(np.inf)},
    "too small": {"weight_scale_2": _scale(2.0**-122)},
    "one a row": {"weight_scale_2": ("F32", np.ones(256, np.float32))},
    "scales of other groups": {"weight_scale": ("F8_E4M3", np.zeros((256, 4), np.uint8))},
    "columns of half a group": {"weight": ("U8", np.zeros((256, 68), np.uint8))},
    "columns of half a word": {"weight": ("U8", np.zeros((256, 62), np.uint8))},
    "biases": {"biases": ("BF16", np.zeros((256, 8), np.uint16))},
    "scales of MLX too": {"scales": ("U8", np.zeros((256, 8), np.uint8))},
    "scales of another type": {"weight_scale": ("U8", np.zeros((256, 8), np.uint8))},
    "no numbers": {"weight": ("U8", np.zeros((), np.uint8))},
    "scales of experts": {
        "weight": ("U8", np.zeros((2, 256, 64), np.uint8)),
        "weight_scale": ("F8_E4M3", np.zeros((2, 256, 8), np.uint8)),
    },
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, Raw], tmp_path: Path) -> None:
    folder = make_modelopt(tmp_path / "base", layers=1)
    config = json.loads((folder / "config.json").read_text())
    files = {path.name: path for path in folder.iterdir()}
    assert grid_of(read_base(files, config), MODULE).tensor_scale > 0
    tensors = load_raw(folder) | {f"{MODULE}.{part}": raw for part, raw in change.items()}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises((FusionUnsupportedError, FormatError), match=MODULE):
        grid_of(read_base(files, config), MODULE)


@pytest.mark.parametrize("part", ["weight_scale", "weight_scale_2"])
def test_packed_numbers_without_scales_are_refused(part: str, tmp_path: Path) -> None:
    folder = make_modelopt(tmp_path / "base", layers=1)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_raw(folder)
    del tensors[f"{MODULE}.{part}"]
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(FusionUnsupportedError, match=MODULE):
        read_base({path.name: path for path in folder.iterdir()}, config)


def test_a_packed_weight_of_no_numbers_is_described(tmp_path: Path) -> None:
    folder = make_modelopt(tmp_path / "base", layers=1)
    tensors = load_raw(folder) | {f"{MODULE}.weight": ("U8", np.zeros((), np.uint8))}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    assert read_architecture(folder).weights[MODULE].shape == ()
