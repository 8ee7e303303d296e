"""What an update that was trained through a quantiser is measured against, whatever is written of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.affine import GROUP_SIZES, Grid
from fusery.registry.engine.arithmetic import (
    BF16,
    F16,
    F32,
    Array,
    Format,
    NotFiniteError,
    Update,
    decode,
    encode,
)
from fusery.registry.engine.fidelity import Sums
from fusery.registry.engine.grids import AnyGrid, requantized
from fusery.registry.engine.microscaling import MODES
from fusery.registry.engine.policy import Quantize, WritePolicy, WriteTarget
from fusery.registry.engine.recipe import DITHER, KEEP, MIXED
from fusery.registry.engine.rows import Change, RowsFormat, StoredRows

from .blocks import fused, share, update

pytestmark = pytest.mark.usefixtures("no_warnings")
ROWS, COLUMNS = 6, 256
FORMS = st.sampled_from([F32, BF16, F16])
AFFINE = st.tuples(st.sampled_from([2, 3, 4, 8]), st.sampled_from(GROUP_SIZES))


def weights(form: Format, seed: int) -> Array:
    return encode(np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32), form)


def change_of(seed: int) -> Update:
    random = np.random.default_rng(seed + 1)
    a, b = random.standard_normal((COLUMNS, 3)), random.standard_normal((3, ROWS)) / 20
    return update(a.astype(np.float32), b.astype(np.float32))


def through(values: Array, grid: Grid) -> Array:
    groups = np.ascontiguousarray(values.reshape(-1, grid.group_size).T)
    return requantized(groups, grid, grid.form).T.reshape(ROWS, COLUMNS)


def fuse(
    stored: StoredRows,
    form: Format,
    own: AnyGrid | None,
    target: WriteTarget,
    aware: AnyGrid | None,
    seed: int,
) -> tuple[StoredRows, Sums]:
    kind = RowsFormat(COLUMNS, form, form, own, target, aware=aware)
    return fused(stored, kind, Change(change_of(seed)))


@given(form=FORMS, of=AFFINE, seed=st.integers(0, 1000))
def test_the_sum_on_that_grid_has_lost_nothing(form: Format, of: tuple[int, int], seed: int) -> None:
    grid = Grid(*of, form)
    stored, target = StoredRows(weights(form, seed)), WriteTarget(grid, form)
    out, sums = fuse(stored, form, None, target, grid, seed)
    assert (sums.inner, sums.error) == (sums.intended, 0.0)
    plain, _ = fuse(stored, form, None, target, None, seed)
    for one, other in ((out.weight, plain.weight), (out.scales, plain.scales), (out.biases, plain.biases)):
        assert one is not None and other is not None
        assert np.array_equal(one, other)


@given(of=AFFINE, seed=st.integers(0, 1000))
def test_the_sum_itself_is_off_by_what_the_grid_rounds(of: tuple[int, int], seed: int) -> None:
    """Base and sum are taken on the grid, and what is written is not."""
    grid, stored, change = Grid(*of, F32), weights(F32, seed), change_of(seed)
    _, sums = fuse(StoredRows(stored), F32, None, WriteTarget(None, F32), grid, seed)
    product = np.zeros((ROWS, COLUMNS), np.float32)
    for left, right in zip(change.left, change.right, strict=True):
        product += left[:, None] * right[None, :]
    base, wanted = through(stored, grid).astype(np.float64), through(stored + product, grid)
    intended, real = wanted - base, (stored + product) - base
    assert sums.intended == pytest.approx((intended**2).sum(), rel=1e-5)
    assert share(sums) == pytest.approx((intended * real).sum() / (intended**2).sum(), rel=1e-4)


def test_formats_with_scales_of_one_byte_and_sums_beyond_the_grid() -> None:
    for grid in MODES.values():
        _, sums = fuse(StoredRows(weights(BF16, 1)), BF16, None, WriteTarget(grid, BF16), grid, 1)
        assert (sums.inner, sums.error) == (sums.intended, 0.0)
        _, plain = fuse(StoredRows(weights(BF16, 1)), BF16, None, WriteTarget(None, BF16), grid, 1)
        assert plain.error > 0
    stored = decode(weights(F32, 1), F32)
    stored[0, 0] = np.inf
    affine = Grid(4, 64, F32)
    with pytest.raises(NotFiniteError):
        fuse(StoredRows(stored), F32, None, WriteTarget(affine, F32), affine, 1)


def test_rounding_is_not_shaped_and_biases_alone_do_not_move() -> None:
    grid = Grid(4, 64, BF16)
    for precision in (KEEP, DITHER, MIXED):
        policy = WritePolicy(precision, biases=True, aware=Quantize(4, 64))
        target = policy.target("m", grid, BF16, 256, adapted=True)
        assert not target.shaped and not target.biases
