"""Blocks with awkward numbers, against MLX: what a random model never shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mlx_numbers import from_mlx, mlx_type, to_mlx

from fusery.registry.engine import kernel
from fusery.registry.engine.affine import Grid, pack, quantize
from fusery.registry.engine.arithmetic import F32, FORMATS, Array, Format, NotFiniteError, decode, encode
from fusery.registry.engine.policy import WriteTarget
from fusery.registry.engine.rows import Change, RowsFormat, StoredRows

from .blocks import fused, update

mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.usefixtures("no_warnings")
ROWS, COLUMNS, RANK = 6, 128, 3
formats = st.sampled_from(list(FORMATS.values()))
widths = st.sampled_from([2, 3, 4, 5, 6, 8])
seeds = st.integers(0, 1 << 30)


@pytest.fixture(autouse=True, scope="module", params=["compiled", "numpy"])
def _arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "compiled" and kernel.compiled is None:
        pytest.skip("the compiled arithmetic was not built: there was no compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(kernel, "compiled", None)
        yield


def factors(seed: int, size: float, rows: int = ROWS) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    a = random.standard_normal((COLUMNS, RANK)).astype(np.float32)
    b = (random.standard_normal((RANK, rows)) * size).astype(np.float32)
    b[:, 0] = 0
    b[0, 1] = -0.0
    return a, b


def delta_of(a: Array, b: Array, form: Format) -> Any:
    kind = mlx_type(form)
    return ((2.0 * mx.array(b).T) @ mx.array(a).T).astype(kind)


def assert_dense_like_mlx(stored: Array, form: Format, seed: int, size: float) -> None:
    a, b = factors(seed, size)
    theirs = from_mlx(to_mlx(stored, form) + delta_of(a, b, form))
    kind = RowsFormat(COLUMNS, form, form, None, WriteTarget(None, form))
    out = fused(StoredRows(stored), kind, Change(update(a, b, 2.0)))[0].weight
    if form is F32:
        # Which of two NaN comes through an addition is the processor's choice.
        same = np.isnan(out) & np.isnan(theirs)
        out, theirs = out[~same].view(np.uint32), theirs[~same].view(np.uint32)
    np.testing.assert_array_equal(out, theirs)


@settings(max_examples=60)
@given(
    numbers=arrays(np.uint32, (ROWS, COLUMNS)),
    form=formats,
    seed=seeds,
    size=st.sampled_from([1e-3, 1.0, 1e-25, 1e-42, 1e30, 2000.0]),
)
def test_any_bits_of_a_weight(numbers: Array, form: Format, seed: int, size: float) -> None:
    assert_dense_like_mlx(stored_as(numbers, form), form, seed, size)


def stored_as(numbers: Array, form: Format) -> Array:
    return numbers.view(np.float32) if form is F32 else numbers.astype(np.uint16)


def plain_rows(form: Format, seed: int, scale: float = 1.0, rows: int = ROWS) -> StoredRows:
    values = np.random.default_rng(seed).standard_normal((rows, COLUMNS)) * scale
    return StoredRows(encode(values.astype(np.float32), form))


def packed_rows(grid: Grid, seed: int, scale: float = 1.0, rows: int = ROWS) -> StoredRows:
    plain = decode(plain_rows(grid.form, seed, scale, rows).weight, grid.form)
    groups = np.ascontiguousarray(plain.reshape(-1, grid.group_size).T)
    codes = np.empty(groups.shape, np.uint32)
    fitted = quantize(groups, grid, np.empty_like(groups), codes)
    parts = [pack(codes, grid), *(encode(part, grid.form) for part in fitted)]
    return StoredRows(*(part.reshape(rows, -1) for part in parts))


def meant(rows: StoredRows, grid: Grid | None, form: Format) -> Any:
    if grid is None:
        return to_mlx(rows.weight, form)
    assert rows.scales is not None and rows.biases is not None
    parts = (to_mlx(part, grid.form) for part in (rows.scales, rows.biases))
    return mx.dequantize(mx.array(rows.weight), *parts, group_size=grid.group_size, bits=grid.bits)


def assert_written(out: StoredRows, target: WriteTarget, expected: Any) -> None:
    if target.grid is None:
        np.testing.assert_array_equal(out.weight, from_mlx(expected))
        return
    theirs = mx.quantize(expected, group_size=target.grid.group_size, bits=target.grid.bits)
    for ours, part in zip((out.weight, out.scales, out.biases), theirs, strict=True):
        np.testing.assert_array_equal(ours, from_mlx(part))


@settings(max_examples=100)
@given(
    form=formats,
    source=st.none() | st.tuples(widths, st.sampled_from([32, 64, 128])),
    target=st.none() | st.tuples(widths, st.sampled_from([32, 64, 128])),
    touched=st.booleans(),
    seed=seeds,
    size=st.sampled_from([1e-3, 1e-42, 3.0, 200.0]),
    scale=st.sampled_from([1.0, 1e-5, 100.0]),
)
def test_from_any_format_to_any_other_with_the_bits_of_mlx(
    form: Format,
    source: tuple[int, int] | None,
    target: tuple[int, int] | None,
    touched: bool,
    seed: int,
    size: float,
    scale: float,
) -> None:
    grid = None if source is None else Grid(*source, form)
    written = WriteTarget(None if target is None else Grid(*target, form), form)
    kind = RowsFormat(COLUMNS, form, form, grid, written)
    if kind.group is None and not touched:
        return  # dense and untouched is a copy of bytes and never computed
    rows = plain_rows(form, seed, scale) if grid is None else packed_rows(grid, seed, scale)
    a, b = factors(seed, size)
    expected = meant(rows, grid, form)
    if touched:
        expected = expected + delta_of(a, b, form)
    out, _ = fused(rows, kind, Change(update(a, b, 2.0)) if touched else None)
    assert_written(out, written, expected)


@settings(max_examples=60)
@given(
    form=formats,
    bits=widths,
    numbers=arrays(np.uint32, (ROWS, COLUMNS)),
    seed=seeds,
    size=st.sampled_from([1e-3, 1e-25, 1e-42, 1e30, 2000.0]),
)
def test_any_bits_quantised_as_by_mlx(
    form: Format, bits: int, numbers: Array, seed: int, size: float
) -> None:
    stored = stored_as(numbers, form)
    a, b = factors(seed, size)
    grid = Grid(bits, 32, form)
    kind = RowsFormat(COLUMNS, form, form, None, WriteTarget(grid, form))
    expected = to_mlx(stored, form) + delta_of(a, b, form)
    # MLX quantises a NaN as if it were not there, and a range beyond float32 to infinite scales.
    parts = (expected, *mx.quantize(expected, group_size=32, bits=bits)[1:])
    finite = all(np.isfinite(decode(from_mlx(part), form)).all() for part in parts)
    try:
        out, _ = fused(StoredRows(stored), kind, Change(update(a, b, 2.0)))
    except NotFiniteError:
        assert not finite
        return
    assert finite
    assert_written(out, kind.target, expected)
