"""An update that is constant within the groups of a base moves their biases and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensor_files import dequantized

from fusery.registry.engine.affine import BITS, GROUP_SIZES, Grid, pack
from fusery.registry.engine.arithmetic import (
    FORMATS,
    Array,
    Format,
    NotFiniteError,
    Thresholds,
    Update,
    decode,
    encode,
    round_at_random,
)
from fusery.registry.engine.fidelity import Sums
from fusery.registry.engine.policy import WritePolicy, WriteTarget
from fusery.registry.engine.recipe import DEQUANTIZE, DITHER, KEEP, MIXED
from fusery.registry.engine.rows import Change, RowsFormat, StoredRows, constant_in_groups

from .blocks import fused, share, update

pytestmark = pytest.mark.usefixtures("no_warnings")
ROWS, COLUMNS, RANK = 8, 256, 3
THRESHOLDS = Thresholds.of(5, "m")
GRIDS = st.builds(
    Grid, st.sampled_from(BITS), st.sampled_from(GROUP_SIZES), st.sampled_from(list(FORMATS.values()))
)


def base(grid: Grid, seed: int) -> StoredRows:
    random = np.random.default_rng(seed)
    groups = ROWS * COLUMNS // grid.group_size
    codes = random.integers(0, grid.top + 1, (grid.group_size, groups), dtype=np.uint32)
    scales = random.uniform(0.01, 0.03, groups).astype(np.float32)
    biases = random.standard_normal(groups).astype(np.float32) / 10
    stored = [encode(part, grid.form).reshape(ROWS, -1) for part in (scales, biases)]
    return StoredRows(pack(codes, grid).reshape(ROWS, -1), *stored)


def grouped(size: int, seed: int, scale: float = 1.0) -> Update:
    random = np.random.default_rng(seed)
    a = np.repeat(random.standard_normal((COLUMNS // size, RANK)), size, axis=0).astype(np.float32)
    b = (random.standard_normal((RANK, ROWS)) / 100).astype(np.float32)
    return update(a, b, scale)


def fuse(rows: StoredRows, grid: Grid, change: Update, *, biases: bool = True) -> tuple[StoredRows, Sums]:
    target = WriteTarget(grid, grid.form, biases=biases)
    kind = RowsFormat(COLUMNS, grid.form, grid.form, grid, target)
    constant = biases and constant_in_groups(change.right, grid.group_size)
    return fused(rows, kind, Change(change, None, THRESHOLDS, constant))


def numbers(rows: StoredRows, grid: Grid) -> Array:
    assert rows.scales is not None and rows.biases is not None
    return dequantized(rows.weight, rows.scales, rows.biases, grid).reshape(ROWS, COLUMNS).astype(np.float64)


@given(grid=GRIDS, times=st.sampled_from([1, 2]), seed=st.integers(0, 1000))
def test_codes_and_scales_stay_and_the_biases_hold_the_update(grid: Grid, times: int, seed: int) -> None:
    rows, change = base(grid, seed), grouped(grid.group_size * times, seed)
    out, sums = fuse(rows, grid, change)
    assert np.array_equal(out.weight, rows.weight)
    assert rows.scales is not None and rows.biases is not None and out.biases is not None
    assert np.array_equal(out.scales, rows.scales)
    product = sum(
        left[:, None] * right[None, :] for left, right in zip(change.left, change.right, strict=True)
    )
    wanted = decode(rows.biases, grid.form) + product[:, :: grid.group_size]
    step = {"F32": 2.0**-23, "BF16": 2.0**-7, "F16": 2.0**-9}[grid.form.name]
    assert np.abs(decode(out.biases, grid.form) - wanted).max() <= step * np.abs(wanted).max()
    # What is measured is what was written: the share of the update that is there, along its own direction.
    done = numbers(out, grid) - numbers(rows, grid)
    wide = np.repeat(product[:, :: grid.group_size], grid.group_size, axis=1).astype(np.float64)
    assert share(sums) == pytest.approx((done * wide).sum() / (wide * wide).sum(), rel=1e-4)
    if grid.form.name == "F32":  # nothing is lost, where `keep` loses most of a small update
        assert share(sums) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("size", [16, 32])
def test_an_update_that_is_not_constant_there_is_written_as_keep_does(size: int) -> None:
    grid = Grid(4, 64, FORMATS["BF16"])
    rows, change = base(grid, 2), grouped(size, 2)
    assert constant_in_groups(change.right, size) and not constant_in_groups(change.right, 64)
    ours, theirs = (fuse(rows, grid, change, biases=biases)[0] for biases in (True, False))
    for name in ("weight", "scales", "biases"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_bias_that_its_format_cannot_hold_is_refused() -> None:
    grid = Grid(4, 64, FORMATS["F16"])
    with pytest.raises(NotFiniteError):
        fuse(base(grid, 3), grid, grouped(64, 3, 1e8))


@pytest.mark.parametrize("precision", [KEEP, DITHER, MIXED, DEQUANTIZE])
def test_only_keep_moves_biases_and_only_where_an_adapter_is(precision: str) -> None:
    policy = WritePolicy(precision, biases=True)
    grid = Grid(4, 64, FORMATS["BF16"])
    assert policy.target("m", grid, grid.form, 128, adapted=True).biases == (precision == KEEP)
    assert not policy.target("m", grid, grid.form, 128, adapted=False).biases
    assert not policy.target("m", None, grid.form, 128, adapted=True).biases


@given(
    value=st.floats(2.0**-10, 6e4, width=32) | st.floats(-6e4, -(2.0**-10), width=32),
    chance=st.floats(0, 1, exclude_max=True, width=32),
    form=st.sampled_from(list(FORMATS.values())),
)
def test_rounded_at_random_is_a_neighbour(value: float, chance: float, form: Format) -> None:
    exact, threshold = np.array([value], np.float32), np.array([chance], np.float32)
    [found] = round_at_random(exact, form, threshold)
    bits = encode(exact, form)
    [nearest] = decode(bits, form)
    if nearest == exact[0]:
        assert found == nearest
        return
    others = [decode(bits + np.uint16(1), form)[0], decode(bits - np.uint16(1), form)[0]]
    [other] = [each for each in others if min(nearest, each) < exact[0] < max(nearest, each)]
    low, high = sorted((float(nearest), float(other)))
    assert found == (high if chance < (float(exact[0]) - low) / (high - low) else low)
