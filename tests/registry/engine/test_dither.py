"""Rounding at random on the base's own grid: laws of the thresholds, of the codes, and of whole files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.affine import Grid, pack, unpack
from fusery.registry.engine.arithmetic import (
    BF16,
    F16,
    F32,
    FORMATS,
    Array,
    Format,
    NotFiniteError,
    Thresholds,
    decode,
    encode,
)
from fusery.registry.engine.fidelity import Sums
from fusery.registry.engine.policy import WritePolicy, WriteTarget
from fusery.registry.engine.recipe import DITHER, KEEP, MIXED
from fusery.registry.engine.rows import Change, RowsFormat, StoredRows, to_rows

from .blocks import fused, update
from .conftest import OurFuse

pytestmark = pytest.mark.usefixtures("no_warnings")


def thresholds(source: Thresholds, first: int, rows: int, columns: int, group: int = 32) -> Array:
    laid = np.empty((group, rows * columns // group), np.float32)
    source.fill(first, rows, laid, np.empty(laid.shape, np.uint32))
    values = np.empty((rows, columns), np.float32)
    to_rows(laid, values)
    return values


@given(
    cuts=st.lists(st.integers(1, 39), max_size=4, unique=True),
    group=st.sampled_from([16, 32, 64, 128]),
    seed=st.integers(0, 1 << 40),
)
def test_thresholds_depend_on_row_and_column_alone(cuts: list[int], group: int, seed: int) -> None:
    source = Thresholds.of(seed, "m")
    whole = thresholds(source, 0, 40, 256, 32)
    edges = [0, *sorted(cuts), 40]
    parts = [thresholds(source, start, stop - start, 256, group) for start, stop in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


ROWS, COLUMNS, RANK = 8, 128, 3


def packed(grid: Grid, codes: Array, scales: Array, biases: Array) -> StoredRows:
    words = pack(codes, grid).reshape(ROWS, -1)
    return StoredRows(words, *(encode(part, grid.form).reshape(ROWS, -1) for part in (scales, biases)))


def random_rows(grid: Grid, seed: int) -> tuple[StoredRows, Array, Array]:
    """Return rows with scales of either sign, their codes and their scales as stored, (group size, groups)."""
    random = np.random.default_rng(seed)
    groups = ROWS * COLUMNS // grid.group_size
    codes = random.integers(0, grid.top + 1, (grid.group_size, groups), dtype=np.uint32)
    scales = (random.uniform(0.01, 0.03, groups) * random.choice([-1, 1], groups)).astype(np.float32)
    biases = random.standard_normal(groups).astype(np.float32) / 10
    rows = packed(grid, codes, scales, biases)
    assert rows.scales is not None
    return rows, codes, decode(rows.scales.reshape(-1), grid.form)


def dithered(
    rows: StoredRows, grid: Grid, a: Array, b: Array, seed: int, scale: float = 1.0
) -> tuple[Array, Sums]:
    kind = RowsFormat(COLUMNS, grid.form, grid.form, grid, WriteTarget(grid, grid.form, dither=True))
    out, sums = fused(rows, kind, Change(update(a, b, scale), None, Thresholds.of(seed, "m")))
    codes = np.empty((grid.group_size, ROWS * COLUMNS // grid.group_size), np.uint32)
    unpack(out.weight.reshape(-1, grid.words_per_group), grid, codes)
    return codes, sums


def factors(seed: int, size: float) -> tuple[Array, Array]:
    random = np.random.default_rng(seed + 1)
    a = random.standard_normal((COLUMNS, RANK)).astype(np.float32)
    return a, (random.standard_normal((RANK, ROWS)) * size).astype(np.float32)


def grouped(values: Array, grid: Grid) -> Array:
    return np.ascontiguousarray(values.reshape(-1, grid.group_size).T)


@given(
    form=st.sampled_from(list(FORMATS.values())),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    group=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 1 << 20),
    size=st.sampled_from([0.0, 1e-5, 1e-3, 1e-2, 0.3, 1e4]),
)
def test_codes_move_to_a_neighbour(form: Format, bits: int, group: int, seed: int, size: float) -> None:
    grid = Grid(bits, group, form)
    rows, codes, scales = random_rows(grid, seed)
    a, b = factors(seed, size)
    new, sums = dithered(rows, grid, a, b, seed)
    product = grouped(b.T.astype(np.float64) @ a.T, grid)
    intended = codes + product / scales
    slack = 1e-4 + 1e-5 * np.abs(intended)  # float32 against float64
    low, high = (
        np.clip(edge, 0, grid.top) for edge in (np.floor(intended - slack), np.ceil(intended + slack))
    )
    assert (low <= new).all()
    assert (new <= high).all()
    # What is retained is measured on what is written.
    assert sums.intended == pytest.approx((product**2).sum(), rel=1e-4)
    if form is F32:
        real = (new.astype(np.float64) - codes) * scales
        assert sums.inner == pytest.approx((real * product).sum(), rel=1e-3, abs=1e-3 * sums.intended)


@pytest.mark.parametrize(("form", "bits"), [(F32, 2), (BF16, 4), (F16, 8)])
def test_the_mean_over_seeds_is_the_intended_change(form: Format, bits: int) -> None:
    grid, seeds = Grid(bits, 64, form), 120
    rows, codes, scales = random_rows(grid, bits)
    a, b = factors(bits, 3e-3)
    mean = np.mean([dithered(rows, grid, a, b, seed)[0].astype(np.float64) for seed in range(seeds)], axis=0)
    intended = codes + grouped(b.T.astype(np.float64) @ a.T, grid) / scales
    inside = (intended >= 0) & (intended <= grid.top)
    assert inside.mean() > 0.5
    fraction = intended - np.floor(intended)
    error = np.sqrt(fraction * (1 - fraction) / seeds) + 1e-4
    scores = ((mean - intended) / error)[inside]
    assert np.abs(scores).max() < 5
    assert (scores**2).mean() == pytest.approx(1, abs=0.15)
    # Not one way on the whole either.
    assert abs(scores.mean()) < 5 / np.sqrt(scores.size)
    # Beyond the ends nothing can be written, and what is nearest is.
    outside = ~inside & (np.abs(intended - np.clip(intended, 0, grid.top)) > 1e-4)
    np.testing.assert_array_equal(mean[outside], np.clip(intended, 0, grid.top)[outside])


def test_a_group_of_scale_zero_stays_as_it_is() -> None:
    grid = Grid(4, 64, BF16)
    rows, codes, _ = random_rows(grid, 0)
    assert rows.scales is not None
    rows.scales[2] = 0
    rows.scales[3] = 0x8000  # minus zero
    new, sums = dithered(rows, grid, *factors(0, 1.0), seed=1)
    np.testing.assert_array_equal(new[:, 4:8], codes[:, 4:8])
    assert (new[:, :4] != codes[:, :4]).mean() > 0.5
    assert sums.finite


def test_what_is_not_finite_is_refused_and_never_written() -> None:
    grid = Grid(4, 64, F32)
    rows, _, _ = random_rows(grid, 4)
    a, b = np.full((COLUMNS, 2), 1e30, np.float32), np.full((2, ROWS), 1e30, np.float32)
    b[1] = -1e30
    with pytest.raises(NotFiniteError):
        dithered(rows, grid, a, b, 1)
    assert rows.scales is not None
    rows.scales[2] = np.nan
    with pytest.raises(NotFiniteError):
        dithered(rows, grid, *factors(0, 1e-3), 1)


def test_a_file_has_the_size_of_keep_and_the_scales_of_the_base(tmp_path: Path, our_fuse: OurFuse) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=4, hidden=256, intermediate=1024)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.01)
    kept, before = our_fuse(base, adapter, KEEP, name="kept")
    folder, after = our_fuse(base, adapter, WritePolicy(DITHER, seed=1), name="dithered")
    assert (folder / "model.safetensors").stat().st_size == (kept / "model.safetensors").stat().st_size
    assert (folder / "config.json").read_bytes() == (kept / "config.json").read_bytes()
    theirs, ours = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    changed = {name for name in theirs if ours[name] != theirs[name]}
    assert ours.keys() == theirs.keys()
    assert changed == {f"model.layers.{n}.{key}.weight" for n in (2, 3) for key in tiny_models.LINEAR}
    assert (before.fidelity.retained, after.fidelity.retained) == (
        pytest.approx(0.2, abs=0.2),
        pytest.approx(0.96, abs=0.05),
    )
    assert all(0.9 < module.retained < 1.05 for module in after.fidelity.modules)


def test_modules_without_tensors_and_dense_modules(tmp_path: Path, our_fuse: OurFuse) -> None:
    up, down = "model.layers.3.mlp.up_proj", "model.layers.3.mlp.down_proj"
    base = tiny_models.make_base(tmp_path / "partly", bits=4, overrides={down: False})
    partial = tiny_models.make_adapter(tmp_path / "partial", base, skip=[up])
    fused = [
        our_fuse(base, partial, WritePolicy(name, {"": 6}), name=name)[0] for name in (KEEP, DITHER, MIXED)
    ]
    theirs, kept, ours, mixed = (tiny_models.read_tensors(path) for path in (base, *fused))
    assert ours[f"{up}.weight"] == theirs[f"{up}.weight"]  # nothing to round
    # A dense module has no grid to dither on and no width to raise.
    assert (
        ours[f"{down}.weight"]
        == mixed[f"{down}.weight"]
        == kept[f"{down}.weight"]
        != theirs[f"{down}.weight"]
    )
