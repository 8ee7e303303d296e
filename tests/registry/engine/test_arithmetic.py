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
    low_halves,
    multiply_out,
    narrow,
    round_any,
    round_sum,
    widen,
)

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


def rounded(values: Array, form: Format) -> Array:
    return decode(encode(values, form), form)


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
def test_fast_rounding_of_anything_within_the_bounds(bits: Array) -> None:
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 1
    for form in HALVES:
        usable = values.copy()
        usable[np.abs(usable) > (65000 if form is F16 else 2.0**100)] = 1
        if form is BF16:
            usable[np.abs(usable) < 2.0**-126] = 0
        out = np.empty_like(usable)
        round_any(usable, form, np.empty_like(usable), out, exact=False)
        expected = rounded(usable, form)
        np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))  # signs of zeros too


@given(left=arrays(np.uint16, 32), right=arrays(np.uint16, 32))
def test_fast_rounding_of_sums_even_of_subnormal_numbers(left: Array, right: Array) -> None:
    for form in HALVES:
        a, b = decode(left, form), decode(right, form)
        limit = 30000 if form is F16 else 2.0**99
        a[~(np.abs(a) < limit)], b[~(np.abs(b) < limit)] = 0, 0
        total = a + b
        out = np.empty_like(total)
        round_sum(total, form, np.empty_like(total), out, exact=False)
        np.testing.assert_array_equal(out.view(np.uint32), rounded(total, form).view(np.uint32))


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_fast_widening_and_narrowing_of_every_finite_number(form: Format) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16)
    if form is F32:
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    stored = stored[np.isfinite(decode(stored, form))]
    wide, back = np.empty(stored.shape, np.float32), np.empty_like(stored)
    widen(stored, form, wide, exact=False)
    np.testing.assert_array_equal(wide.view(np.uint32), decode(stored, form).view(np.uint32))
    narrow(wide, form, np.empty_like(wide), back, exact=False)
    np.testing.assert_array_equal(back, stored)
    if form is not F32:
        bits = np.empty(stored.shape, np.uint32)
        low_halves(wide, form, bits, exact=True)
        np.testing.assert_array_equal(bits, stored)
    if form is F16:  # what is not finite lies beyond the limit
        widen(np.array([0x7C00, 0xFC00, 0x7E00, 0xFFFF], np.uint16), F16, wide[:4], exact=False)
        assert (np.abs(wide[:4]) > F16.limit + 16).all()


def test_an_update_that_is_not_finite_is_refused() -> None:
    a, b = np.ones((4, 2), np.float32), np.ones((2, 3), np.float32)
    for damaged in (np.nan, np.inf):
        b[1, 1] = damaged
        with pytest.raises(ValueError):
            Update.of(a, b, F32, F32, 1.0, embedding=False)
    b[1, 1] = 1e30
    with pytest.raises(ValueError):
        Update.of(a, b, F32, F32, 1e30, embedding=False)


def test_the_exact_way_is_taken_where_the_fast_one_could_be_wrong() -> None:
    for form, size, exact in (
        *((BF16, size, False) for size in (0.0, 3e-3)),
        *((BF16, size, True) for size in (1e-20, 1e25)),
        *((F16, 3e-3, False), (F16, 10.0, True)),
    ):
        a, b = np.full((4, 2), size, np.float32), np.full((2, 3), size, np.float32)
        assert Update.of(a, b, F32, F32, 1.0, embedding=False).needs_exact(form) is exact


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
    scratch, found = np.empty_like(delta), []
    for exact in {True, update.needs_exact(form)}:
        multiply_out(update.left[:, :, None], update.right[:, None, :], delta, scratch)
        update.round_to(delta, form, scratch, delta, exact=exact)
        found.append(encode(delta, form))
    np.testing.assert_array_equal(found[0], found[-1])
    return found[0]


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
