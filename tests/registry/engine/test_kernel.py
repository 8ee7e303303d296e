"""The compiled arithmetic against NumPy's: the same bytes and the same sums, whatever the numbers."""

from __future__ import annotations

import os
import shutil
from dataclasses import astuple, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fusery.registry.engine import kernel
from fusery.registry.engine.affine import Grid
from fusery.registry.engine.arithmetic import BF16, F16, F32, Array, Format, NotFiniteError, Update, encode
from fusery.registry.engine.policy import WriteTarget
from fusery.registry.engine.rows import Change, RowsFormat, StoredRows

from .blocks import fused, room, update

compiled = pytest.mark.skipif(kernel.compiled is None, reason="the compiled arithmetic was not built")

pytestmark = pytest.mark.usefixtures("no_warnings")
forms = st.sampled_from([BF16, F16, F32])
sizes = st.sampled_from([1.0, 1.0, 1e-3, 1e-6, 1e-20, 1e-40, 300.0, 1e5, 1e30, 3e38])
grids = st.none() | st.tuples(st.sampled_from([2, 3, 4, 5, 6, 8]), st.sampled_from([32, 64, 128]))


@st.composite
def kinds(draw: st.DrawFn) -> RowsFormat:
    form, target_form = draw(forms), draw(forms)
    base, target = (
        None if chosen is None else Grid(*chosen, form=of)
        for chosen, of in ((draw(grids), form), (draw(grids), target_form))
    )
    if base is None and target is None:
        target_form = form
        columns = draw(st.integers(1, 1100))
    else:
        columns = 128 * draw(st.integers(1, 9))
    return RowsFormat(columns, form, form, base, WriteTarget(target, target_form))


def numbers(random: np.random.Generator, shape: tuple[int, ...], form: Format, size: float) -> Array:
    values = (random.standard_normal(shape) * size).astype(np.float32)
    some = random.random(shape)
    values[some < 0.05] = 0.0
    values[(some > 0.05) & (some < 0.1)] = -0.0
    values[(some > 0.1) & (some < 0.12)] = 1e-45
    return encode(values, form)


def rows_of(kind: RowsFormat, count: int, random: np.random.Generator, size: float) -> StoredRows:
    if kind.grid is None:
        return StoredRows(numbers(random, (count, kind.columns), kind.form, size))
    words = random.integers(0, 1 << 32, (count, kind.grid.words(kind.columns)), np.uint32)
    groups = (count, kind.columns // kind.grid.group_size)
    scales, biases = (numbers(random, groups, kind.form, size) for _ in range(2))
    return StoredRows(words, scales, biases)


def change_of(
    kind: RowsFormat, rank: int, rows: int, random: np.random.Generator, size: float, form: Format
) -> Change | None:
    if not rank:
        return None
    a = numbers(random, (kind.columns, rank), form, 1.0)
    b = numbers(random, (rank, rows), form, size)
    try:
        return Change(Update.of(a, b, form, form, 2.0, embedding=False))
    except ValueError:  # a factor that is not finite does not come this far
        return None


@compiled
@settings(deadline=None, max_examples=400)
@given(
    kind=kinds(),
    count=st.integers(1, 7),
    rank=st.integers(0, 9),
    first=st.integers(0, 3),
    seed=st.integers(0, 1 << 30),
    size=sizes,
    of_update=sizes,
    update_form=forms,
)
def test_the_same_bits_and_sums_as_numpy(
    kind: RowsFormat,
    count: int,
    rank: int,
    first: int,
    seed: int,
    size: float,
    of_update: float,
    update_form: Format,
) -> None:
    random = np.random.default_rng(seed)
    rows = rows_of(kind, count, random, size)
    change = change_of(kind, rank, first + count + 1, random, of_update, update_form)
    assume(change is not None or kind.group is not None)  # plain numbers that nobody touches are copied
    ours = room(kind, count)
    found = kernel.fuse_rows(rows, kind, change, first, ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "compiled", None)
        try:
            theirs, expected = fused(rows, kind, change, first)
        except NotFiniteError:
            assert found is None
            return
    if found is None:  # left to NumPy, which leaves out of its sums what is not finite
        return
    # The last sums are in float64 in no set order; with numbers beyond its fast ways, NumPy takes float64 for all.
    near = {"rel": 1e-12, "abs": 0.0} if kind.group else {"rel": 1e-5, "abs": 1e-30}
    assert astuple(found) == pytest.approx(astuple(expected), **near)
    for mine, other in zip(parts(ours), parts(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)


def parts(rows: StoredRows) -> list[Array]:
    return [
        part.view(np.uint32 if part.itemsize == 4 else np.uint16)
        for part in (rows.weight, rows.scales, rows.biases)
        if part is not None
    ]


@compiled
def test_ordinary_numbers_are_not_left_to_numpy() -> None:
    random = np.random.default_rng(0)
    for form in (BF16, F16, F32):
        for base, target in product((None, Grid(4, 64, form)), (None, Grid(4, 64, form), Grid(6, 32, form))):
            kind = RowsFormat(640, form, form, base, WriteTarget(target, form))
            rows = rows_of(kind, 5, random, 0.1)
            a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((640, 8), (8, 5)))
            change = Change(update(a, b, 0.01))
            assert kernel.handles(kind, change)
            assert kernel.fuse_rows(rows, kind, change, 0, room(kind, 5)) is not None


@compiled
def test_sizes_that_do_not_fit_are_refused() -> None:
    """A mistake of ours must not become one of memory."""
    kind = RowsFormat(64, BF16, BF16, None, WriteTarget(None, BF16))
    rows, change = (
        StoredRows(np.zeros((4, 64), np.uint16)),
        Change(Update(np.zeros((1, 4), np.float32), np.zeros((1, 64), np.float32), F32)),
    )
    for bad in (
        (rows, replace(kind, columns=65), change, 0, room(kind, 4)),
        (rows, kind, change, 1, room(kind, 4)),
        (rows, kind, change, -1, room(kind, 4)),
        (rows, kind, change, 0, room(kind, 3)),
        (rows, replace(kind, columns=32), change, 0, room(kind, 4)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            kernel.fuse_rows(*bad)
    constant = room(kind, 4)
    constant.weight.flags.writeable = False
    with pytest.raises((TypeError, ValueError)):
        kernel.fuse_rows(rows, kind, change, 0, constant)


@pytest.mark.skipif(
    shutil.which("cc") is None or os.environ.get("CC") == "false",
    reason="no compiler, or one that fails on purpose",
)
def test_where_there_is_a_compiler_it_was_built() -> None:
    assert kernel.compiled is not None, os.environ.get("CC")
