"""The compiled arithmetic against NumPy's: the same bytes; golden digests and `test_blocks` hold both to the same numbers."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from fusery.registry.engine import kernel
from fusery.registry.engine.affine import Grid
from fusery.registry.engine.arithmetic import BF16, F16, F32, Array, Format, Update, encode
from fusery.registry.engine.calibration import CalibrationFile
from fusery.registry.engine.policy import WritePolicy, WriteTarget
from fusery.registry.engine.rows import Change, RowsFormat, StoredRows

from .blocks import room, update
from .conftest import OurFuse

compiled = pytest.mark.skipif(kernel.compiled is None, reason="the compiled arithmetic was not built")

pytestmark = pytest.mark.usefixtures("no_warnings")


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


@compiled
@pytest.mark.parametrize("fitted", [False, True])
def test_a_fuse_has_the_same_bytes(
    calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse, fitted: bool
) -> None:
    base, adapter, calibration = calibrated
    policy = WritePolicy("dither", calibration=calibration, fitted=fitted)
    _, first = our_fuse(base, adapter, policy, name="compiled", threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "compiled", None)
        _, plain = our_fuse(base, adapter, policy, name="plain", threads=2)
    assert (plain.files, plain.fidelity) == (first.files, first.fidelity)


@compiled
@pytest.mark.parametrize("wrong", range(6))
def test_buffers_that_do_not_fit_are_refused(wrong: int) -> None:
    shapes = ((4, 2), (4, 2), (4, 2), (4, 3), (4, 3), (4, 2))
    shaped: list[Array] = [np.zeros(shape, np.float32) for shape in shapes]
    fitted: list[Array] = [
        np.zeros((2, 32, 3)),
        np.zeros((2, 32)),
        *np.zeros((2, 5, 64), np.float32),
        *np.zeros((2, 5, 2)),
    ]
    huge = 1 << 40
    for call, buffers, sizes, last, bad in (
        (kernel.compiled.shape, shaped, (4, 2, 3), 15.0, ((-1, 2, 3), (huge, huge, huge))),
        (kernel.compiled.fit, fitted, (5, 2, 32, 3), 1e-3, ((5, huge, 32, huge),)),
    ):
        call(*buffers, sizes, last)
        for other in bad:
            with pytest.raises(ValueError, match="do not fit"):
                call(*buffers, other, last)
        buffers[wrong] = buffers[wrong].reshape(-1)[:-1].copy()
        with pytest.raises(ValueError, match="do not fit"):
            call(*buffers, sizes, last)


@pytest.mark.skipif(
    shutil.which("cc") is None or os.environ.get("CC") == "false",
    reason="no compiler, or one that fails on purpose",
)
def test_where_there_is_a_compiler_it_was_built() -> None:
    assert kernel.compiled is not None, os.environ.get("CC")
