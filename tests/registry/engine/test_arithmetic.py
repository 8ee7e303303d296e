from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mlx_numbers import from_mlx, mlx_type, to_mlx

from fusery.registry.engine.arithmetic import (
    BF16,
    F16,
    F32,
    FORMATS,
    Array,
    Format,
    Update,
    decode,
    encode,
    multiply_out,
    round_to,
    row_factors,
    row_norms,
    spare_size,
)
from fusery.registry.engine.rows import rows_per_block, tile

mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.usefixtures("no_warnings")
HALVES = (BF16, F16)
halves = pytest.mark.parametrize("form", HALVES, ids=lambda form: form.name)
# Zeros, infinities, NaN, the ends of each format, ties, and subnormal numbers.
AWKWARD = [
    *(0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F7FFFFF),
    *(0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0xB3000000, 0x387FC000, 0x38800000),
    *(0x00000001, 0x807FFFFF, 0x00008000, 0x3F808000),
]
bits32 = arrays(np.uint32, st.integers(1, 64), elements=st.integers(0, 2**32 - 1) | st.sampled_from(AWKWARD))


@halves
def test_every_stored_number_is_read_as_mlx_reads_it(form: Format) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16)
    theirs = np.array(to_mlx(stored, form).astype(mx.float32))
    ours = decode(stored, form)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))
    np.testing.assert_array_equal(encode(ours, form)[~np.isnan(ours)], stored[~np.isnan(ours)])


@given(bits=bits32)
@example(np.array(AWKWARD, np.uint32))
def test_any_number_is_stored_as_mlx_stores_it(bits: Array) -> None:
    values = bits.view(np.float32)
    for form, kind in ((BF16, mx.bfloat16), (F16, mx.float16)):
        np.testing.assert_array_equal(encode(values, form), from_mlx(mx.array(values).astype(kind)))


@given(bits=bits32)
@example(np.array(AWKWARD, np.uint32))
def test_rounding_gives_the_number_that_would_be_stored(bits: Array) -> None:
    values = bits.view(np.float32)
    values[np.isnan(values)] = np.nan  # as operations and 16-bit numbers have it
    for form in FORMATS.values():
        expected, out = decode(encode(values, form), form), np.empty_like(values)
        round_to(values, form, np.empty_like(values), out)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))
        own = values.copy()
        round_to(own, form, np.empty_like(values), own)
        np.testing.assert_array_equal(own, expected)


def test_an_update_that_is_not_finite_is_refused() -> None:
    a, b = np.ones((4, 2), np.float32), np.ones((2, 3), np.float32)
    for damaged in (np.nan, np.inf):
        b[1, 1] = damaged
        with pytest.raises(ValueError):
            Update.of(a, b, F32, F32, 1.0, embedding=False)
    b[1, 1] = 1e30
    with pytest.raises(ValueError):
        Update.of(a, b, F32, F32, 1e30, embedding=False)


forms = pytest.mark.parametrize(
    ("a_form", "b_form"), list(product(FORMATS.values(), repeat=2)), ids=lambda form: form.name
)


RANKS = (1, 5, 16, 17, 64, 128)


SCALE = 0.1  # not a float32, and rounded differently in each format


def factor(seed: int, shape: tuple[int, ...], form: Format) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape) * 1e-2
    return encode(values.astype(np.float32), form)


def delta_of(update: Update, form: Format) -> Array:
    delta = np.empty((update.left.shape[1], update.right.shape[1]), np.float32)
    scratch = np.empty_like(delta)
    multiply_out(update.left[:, :, None], update.right[:, None, :], delta, scratch)
    update.round_to(delta, form, scratch, delta)
    return encode(delta, form)


@forms
@pytest.mark.parametrize("embedding", [False, True])
def test_updates_of_any_rank_have_the_bits_of_mlx(embedding: bool, a_form: Format, b_form: Format) -> None:
    for rank, (rows, columns) in product(RANKS, [(33, 17), (1, 50), (50, 1)]):
        left, right = (rows, columns) if embedding else (columns, rows)
        a, b = factor(3, (left, rank), a_form), factor(4, (rank, right), b_form)
        theirs_a, theirs_b = to_mlx(a, a_form), to_mlx(b, b_form)
        whole = (SCALE * theirs_a) @ theirs_b if embedding else (SCALE * theirs_b.T) @ theirs_a.T
        update = Update.of(a, b, a_form, b_form, SCALE, embedding=embedding)
        for form in FORMATS.values():
            np.testing.assert_array_equal(delta_of(update, form), from_mlx(whole.astype(mlx_type(form))))


def test_blocks_of_a_large_rank_are_smaller_so_that_tiles_stay_small() -> None:
    for rank, columns in ((8, 896), (64, 896), (256, 4096), (1024, 4096), (8, 1 << 18)):
        rows = rows_per_block(columns, rank)
        assert rows >= 1
        assert rank * rows * columns <= max(8 << 20, rank * columns)
    right = np.arange(2 * 128, dtype=np.float32).reshape(2, 128)
    tiles = tile(right, 64, 3)
    assert tiles.shape == (2, 64, 6)
    assert tiles[1, 5].tolist() == [128 + 5, 128 + 64 + 5] * 3


each_form = pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)


def weights(seed: int, rows: int, columns: int, form: Format, spread: float = 3) -> Array:
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, columns)) * 10.0 ** random.uniform(-spread, 0, (rows, 1))
    return encode(values.astype(np.float32), form)


def norms_of(values: Array, form: Format) -> Array:
    spare, turned = np.empty((2, spare_size(*values.shape)), np.float32)
    return row_norms(values, form, spare, turned)


def theirs(stored: Array, form: Format) -> Array:
    norms: Array = from_mlx(mx.linalg.norm(to_mlx(stored, form), axis=1))
    return norms


SHAPES = [
    *product((1, 2, 7, 8, 9, 64), (1, 2, 63, 64, 65, 576, 895, 896)),
    *((40, 4096), (50, 4097), (30, 4864), (11, 14336), (3, 14336), (700, 300)),
]


@each_form
def test_norms_have_the_bits_of_mlx(form: Format) -> None:
    for rows, columns in SHAPES:
        assert_norms(weights(rows * columns, rows, columns, form), form)


def assert_norms(stored: Array, form: Format) -> None:
    np.testing.assert_array_equal(encode(norms_of(decode(stored, form), form), form), theirs(stored, form))


AWKWARD_VALUES = [
    *(0.0, -0.0, 1e-45, 1e-39, 3e-23, 1e-20, 1e-8, 3e-4, 255.0, 256.0, 65504.0, 1e19, 2e19, 3e38),
    *(np.inf, np.nan),
]


@each_form
def test_norms_of_awkward_rows(form: Format) -> None:
    with np.errstate(all="ignore"):
        for value in AWKWARD_VALUES:
            stored = weights(3, 9, 40, form)
            stored[2, 5:9] = encode(np.array([value], np.float32), form)[0]
            stored[4] = stored[2, 5]
            assert_norms(stored, form)


@each_form
def test_rows_of_zeros_become_nan_as_in_mlx(form: Format) -> None:
    stored = weights(6, 8, 32, form)
    stored[3:5] = 0
    m = np.ones(8, np.float32)
    m[4] = 0
    weight = to_mlx(stored, form)
    expected = np.array((mx.array(m) / mx.linalg.norm(weight, axis=1))[:, None] * weight)
    values = decode(stored, form)
    with np.errstate(invalid="ignore"):
        out = values * row_factors(m, norms_of(values, form), F32)[:, None]
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(out[3:5]).all()
    assert np.isfinite(np.delete(out, [3, 4], axis=0)).all()
