"""Blocks with awkward numbers, against MLX: what a random model never shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mlxbits import from_mlx, mlx_type, to_mlx

from fusery.registry.fusion.affine import Grid, Packed, pack_rows
from fusery.registry.fusion.arithmetic import BF16, F16, F32, FORMATS, Array, Format, Update, decode, encode
from fusery.registry.fusion.blocks import (
    GridUpdate,
    NotFiniteError,
    Workspace,
    dequantize_rows,
    fuse_dense,
    fuse_dequantized,
    requantize,
    rows_per_block,
    tile,
)

mx = pytest.importorskip("mlx.core")
ROWS, COLUMNS, RANK = 6, 64, 3


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def factors(seed: int, size: float) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    a = random.standard_normal((COLUMNS, RANK)).astype(np.float32)
    b = (random.standard_normal((RANK, ROWS)) * size).astype(np.float32)
    b[:, 0] = 0
    b[0, 1] = -0.0
    return a, b


def delta_of(a: Array, b: Array, form: Format) -> Any:
    kind = mlx_type(form)
    return ((2.0 * mx.array(b).T) @ mx.array(a).T).astype(kind)


def assert_dense_like_mlx(stored: Array, form: Format, seed: int, size: float) -> None:
    a, b = factors(seed, size)
    theirs = from_mlx(to_mlx(stored, form) + delta_of(a, b, form))
    update = Update.of(a, b, F32, F32, 2.0, embedding=False)
    out = np.empty_like(stored)
    fuse_dense(stored, form, update, 0, out, Workspace())
    if form is F32:
        # Which of two NaN comes through an addition is the processor's choice.
        same = np.isnan(out) & np.isnan(theirs)
        out, theirs = out[~same].view(np.uint32), theirs[~same].view(np.uint32)
    np.testing.assert_array_equal(out, theirs)


@settings(deadline=None, max_examples=150)
@given(
    bits=arrays(np.uint16, (ROWS, COLUMNS)),
    form=st.sampled_from([BF16, F16]),
    seed=st.integers(0, 1 << 30),
    size=st.sampled_from([1e-3, 1.0, 1e-25, 1e-42, 1e30, 2000.0]),
)
def test_any_bits_of_a_16_bit_weight(bits: Array, form: Format, seed: int, size: float) -> None:
    with np.errstate(all="ignore"):
        assert_dense_like_mlx(bits, form, seed, size)


@settings(deadline=None)
@given(
    bits=arrays(np.uint32, (ROWS, COLUMNS)),
    seed=st.integers(0, 1 << 30),
    size=st.sampled_from([1e-3, 1e-25, 1e-42, 1e30]),
)
def test_any_bits_of_a_float32_weight(bits: Array, seed: int, size: float) -> None:
    with np.errstate(all="ignore"):
        assert_dense_like_mlx(bits.view(np.float32), F32, seed, size)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 1.0, 65504.0, 3e38, np.inf, -np.inf, np.nan])
def test_one_odd_weight_among_ordinary_ones(form: Format, value: float) -> None:
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    values[2, 5] = values[0, 0] = value
    assert_dense_like_mlx(encode(values, form), form, 1, 1e-3)


def packed_rows(form: Format, bits: int, seed: int, scale: float = 1.0) -> tuple[Grid, Packed]:
    grid = Grid(bits, 32, form)
    values = np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(
        scale
    )
    return grid, pack_rows(decode(encode(values, form), form).reshape(-1, 32), grid)


@settings(deadline=None)
@given(
    form=st.sampled_from(list(FORMATS.values())),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    seed=st.integers(0, 1 << 30),
    size=st.sampled_from([1e-3, 1e-42, 3.0, 200.0]),
    scale=st.sampled_from([1.0, 1e-5, 100.0]),
)
def test_quantised_rows_have_the_bits_of_mlx(
    form: Format, bits: int, seed: int, size: float, scale: float
) -> None:
    with np.errstate(all="ignore"):
        grid, packed = packed_rows(form, bits, seed, scale)
        a, b = factors(seed, size)
        words, scales, biases = mx.array(packed.words.reshape(ROWS, -1)), packed.scales, packed.biases
        parts = (to_mlx(part.reshape(ROWS, -1), form) for part in (scales, biases))
        plain = mx.dequantize(words, *parts, group_size=32, bits=bits)
        fused = plain + delta_of(a, b, form)
        update = Update.of(a, b, F32, F32, 2.0, embedding=False)
        change, work = GridUpdate(update, tile(update.right, grid, ROWS)), Workspace()
        out = np.empty((ROWS * 2, 32), form.stored)
        dequantize_rows(packed, grid, out, work)
        np.testing.assert_array_equal(out.reshape(ROWS, -1), from_mlx(plain))
        fuse_dequantized(packed, grid, change, 0, out, work)
        np.testing.assert_array_equal(out.reshape(ROWS, -1), from_mlx(fused))
        new, _ = requantize(packed, grid, change, 0, work)
        theirs = mx.quantize(fused, group_size=32, bits=bits)
        for ours, part in zip((new.words, new.scales, new.biases), theirs, strict=True):
            np.testing.assert_array_equal(ours.reshape(ROWS, -1), from_mlx(part))


@pytest.mark.parametrize("form", [BF16, F16, F32], ids=lambda form: form.name)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_quantised_weight_that_is_not_finite_is_refused(form: Format, value: float) -> None:
    grid, packed = packed_rows(form, 4, 0)
    scales = decode(packed.scales, form)
    scales[3] = value
    damaged = Packed(packed.words, encode(scales, form), packed.biases)
    a, b = factors(0, 1e-3)
    update = Update.of(a, b, F32, F32, 2.0, embedding=False)
    with pytest.raises(NotFiniteError):
        requantize(damaged, grid, GridUpdate(update, tile(update.right, grid, ROWS)), 0, Workspace())


def test_blocks_of_a_large_rank_are_smaller_so_that_tiles_stay_small() -> None:
    grid = Grid(4, 64, BF16)
    for rank, columns in ((8, 896), (64, 896), (256, 4096), (1024, 4096), (8, 1 << 18)):
        rows = rows_per_block(columns, rank)
        assert rows >= 1
        assert rank * rows * columns <= max(8 << 20, rank * columns)
    right = np.arange(2 * 128, dtype=np.float32).reshape(2, 128)
    tiles = tile(right, grid, 3)
    assert tiles.shape == (2, 64, 6)
    assert tiles[1, 5].tolist() == [128 + 5, 128 + 64 + 5] * 3
