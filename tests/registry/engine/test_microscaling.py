from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_numbers import from_mlx, to_mlx

from fusery.registry.engine.affine import pack, unpack
from fusery.registry.engine.arithmetic import (
    BF16,
    F32,
    FORMATS,
    Array,
    Format,
    NotFiniteError,
    decode,
    encode,
)
from fusery.registry.engine.microscaling import MODES, FloatGrid

mx = pytest.importorskip("mlx.core")
grids = pytest.mark.parametrize("grid", MODES.values(), ids=lambda grid: grid.mode)
forms = pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
COLUMNS = 128
pytestmark = pytest.mark.usefixtures("no_warnings")


def settings_of(grid: FloatGrid) -> dict[str, Any]:
    return {"group_size": grid.group_size, "bits": grid.bits, "mode": grid.mode}


def dequantized(words: Array, scales: Array, grid: FloatGrid) -> Array:
    codes = np.empty((grid.group_size, scales.size), np.uint32)
    out = np.empty(codes.shape, np.float32)
    unpack(words.reshape(-1, grid.words_per_group), grid, codes)
    grid.dequantize(codes, scales.reshape(-1), out)
    return encode(np.ascontiguousarray(out.T), BF16).reshape(len(words), -1)


def quantized(stored: Array, form: Format, grid: FloatGrid) -> tuple[Array, Array]:
    block = np.ascontiguousarray(decode(stored, form).reshape(-1, grid.group_size).T)
    codes = np.empty(block.shape, np.uint32)
    scales = grid.quantize(block, codes, form)
    return pack(codes, grid).reshape(len(stored), -1), scales.reshape(len(stored), -1)


def assert_quantized_as_mlx(stored: Array, form: Format, grid: FloatGrid) -> None:
    words, scales = mx.quantize(to_mlx(stored, form), **settings_of(grid))
    ours = quantized(stored, form, grid)
    np.testing.assert_array_equal(ours[1], np.array(scales))
    np.testing.assert_array_equal(ours[0], np.array(words))


@grids
def test_every_code_with_every_scale_is_dequantised_as_mlx_does(grid: FloatGrid) -> None:
    per_row = 256 // grid.group_size if grid.bits == 8 else 2
    codes = np.arange(per_row * grid.group_size, dtype=np.uint32) % (grid.top + 1)
    block = np.tile(codes.reshape(per_row, grid.group_size).T, 256)
    words = pack(block, grid).reshape(256, -1)
    scales = np.repeat(np.arange(256, dtype=np.uint8), per_row).reshape(256, per_row)
    theirs = mx.dequantize(mx.array(words), mx.array(scales), **settings_of(grid))
    assert theirs.dtype == mx.bfloat16
    for part in (slice(None), slice(20, 240)):  # the second takes the fast way
        np.testing.assert_array_equal(dequantized(words[part], scales[part], grid), from_mlx(theirs[part]))


def rows_of(seed: int, form: Format, spread: float) -> Array:
    random = np.random.default_rng(seed)
    values = random.standard_normal((12, COLUMNS)) * 10.0 ** random.uniform(-spread, 0, (12, 1))
    values[0] = 0
    values[1] = values[1, 0]
    values[2, 5:] *= 1e-6
    values[3, ::7] *= 5000
    values[4, ::2] = -0.0
    values[5] = -0.0
    values[6] = random.integers(-24, 25, COLUMNS) / 4 * 2.0 ** random.integers(-8, 8)
    values[7] = random.integers(-448 * 4, 448 * 4 + 1, COLUMNS) / 4 * 2.0 ** random.integers(-8, 2)
    values[8] = random.integers(-64, 65, COLUMNS) / 1024
    values[8, ::16] = 448
    return encode(values.astype(np.float32), form)


@settings(max_examples=150)
@given(
    grid=st.sampled_from(list(MODES.values())),
    form=st.sampled_from(list(FORMATS.values())),
    seed=st.integers(0, 1 << 30),
    spread=st.floats(0, 12),
)
def test_quantising_has_the_bits_of_mlx(grid: FloatGrid, form: Format, seed: int, spread: float) -> None:
    stored = rows_of(seed, form, spread)
    assert_quantized_as_mlx(stored, form, grid)
    words, scales = quantized(stored, form, grid)
    theirs = mx.dequantize(mx.array(words), mx.array(scales), **settings_of(grid))
    np.testing.assert_array_equal(dequantized(words, scales, grid), from_mlx(theirs))


@grids
def test_what_has_no_scale_is_refused(grid: FloatGrid) -> None:
    for value in (np.nan, np.inf, -np.inf, 3e38):
        block = np.ones((grid.group_size, 4), np.float32)
        block[3, 2] = value
        with pytest.raises(NotFiniteError):
            grid.quantize(block, np.empty(block.shape, np.uint32), BF16)


@grids
def test_groups_of_tiny_numbers_for_which_mlx_writes_huge_ones(grid: FloatGrid) -> None:
    row = np.full((1, 32), 1e-39, np.float32)
    theirs = mx.quantize(mx.array(row), **settings_of(grid))
    back = np.array(mx.dequantize(*theirs, **settings_of(grid)).astype(mx.float32))
    if grid.group_size == 16:
        assert not back.any()
        assert_quantized_as_mlx(row, F32, grid)
    else:
        assert (back > 1e37).all()
        with pytest.raises(NotFiniteError):
            quantized(row, F32, grid)


def ordered_codes(grid: FloatGrid) -> Array:
    return np.array(
        [code for code in range(grid.top + 1) if grid.bits == 4 or code & 0x7F != 0x7F], np.uint32
    )


def numbers_of(codes: Array, scale: int, grid: FloatGrid) -> Array:
    out = np.empty(codes.shape, np.float32)
    grid.dequantize(codes, np.full(codes.shape[1], scale, np.uint8), out)
    return out


@grids
@pytest.mark.parametrize("share", [0.125, -0.125, 0.75, -0.75])
def test_dithering_moves_the_mean_by_the_change(grid: FloatGrid, share: float) -> None:
    """With thresholds spread evenly, the mean over them is exact for binary fractions."""
    scale = 0x40 if grid.group_size == 16 else 120
    factor = numbers_of(np.full((1, 1), 0x38 if grid.bits == 8 else 2, np.uint32), scale, grid)[0, 0]
    codes = np.tile(ordered_codes(grid), (64, 1))
    thresholds = np.repeat((np.arange(64, dtype=np.float32)[:, None] + 0.5) / 64, codes.shape[1], axis=1)
    before = numbers_of(codes, scale, grid)
    smallest = 0.5 if grid.bits == 4 else 2.0**-9
    delta = np.full(codes.shape, np.float32(share * smallest) * factor)
    for times in (1, 8, 64):
        moved = codes.copy()
        grid.dither(moved, np.full(codes.shape[1], scale, np.uint8), delta * np.float32(times), thresholds)
        after = numbers_of(moved, scale, grid)
        ends = np.float32(6 if grid.bits == 4 else 448) * factor
        meant = np.clip(before[0] + delta[0] * times, -ends, ends)
        tolerance = np.maximum(np.abs(meant), factor * smallest) * (0.5 if grid.bits == 4 else 0.125) / 64
        assert (np.abs(after.mean(axis=0) - meant) <= tolerance).all()
        places = (moved & (grid.top >> 1)).astype(np.int64) * np.where(moved > grid.top >> 1, -1, 1)
        assert np.ptp(places, axis=0).max() <= 1


def dithered(mode: str, code: int, scale: int, delta: float) -> int:
    grid = MODES[mode]
    moved = np.full((grid.group_size, 1), code, np.uint32)
    change = np.full(moved.shape, delta, np.float32)
    grid.dither(moved, np.array([scale], np.uint8), change, np.zeros(moved.shape, np.float32))
    (found,) = set(moved[:, 0].tolist())
    return int(found)


@pytest.mark.parametrize(
    ("mode", "without"), [("nvfp4", 0), ("nvfp4", 0x7F), ("nvfp4", 0xFF), ("mxfp4", 0xFF), ("mxfp8", 0xFF)]
)
def test_dithering_leaves_what_means_nothing(mode: str, without: int) -> None:
    assert dithered(mode, 3, without, 1.0) == 3
    for code in (0x7F, 0xFF):  # NaN
        assert dithered("mxfp8", code, 127, 1.0) == code
    for code in ordered_codes(MODES[mode]):
        assert dithered(mode, code, 50, 0.0) == code
