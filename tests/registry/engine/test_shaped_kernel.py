"""The compiled halves of shaped rounding and of the fit against NumPy's: the same bits, whatever the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.engine import kernel
from fusery.registry.engine.arithmetic import Array
from fusery.registry.engine.calibration import CalibrationFile, Directions
from fusery.registry.engine.policy import WritePolicy
from fusery.registry.engine.shaped import Fit
from fusery.registry.engine.shaping import Shape, Shaper, metric

from .conftest import OurFuse

pytestmark = [
    pytest.mark.skipif(kernel.compiled is None, reason="the compiled arithmetic was not built"),
    pytest.mark.usefixtures("no_warnings"),
]

sizes = st.sampled_from([1.0, 1e-3, 1e-8, 30.0, 1e4])


def both_ways(compute: object) -> list[tuple[Array, ...]]:
    found = []
    for compiled in (kernel.compiled, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "compiled", compiled)
            found.append(compute())  # type: ignore[operator]
    return found


def directions_of(random: np.random.Generator, count: int, columns: int, size: float) -> Directions:
    main, rest = random.standard_normal((count, columns)), random.random(columns)
    return Directions((main * size).astype(np.float32), (rest * size).astype(np.float32), float(size))


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 140),
    columns=st.integers(1, 3).map(lambda groups: 32 * groups),
    count=st.integers(0, 40),
    bits=st.sampled_from([2, 3, 4, 8]),
    size=sizes,
)
@settings(max_examples=60)
def test_codes_are_alike(seed: int, rows: int, columns: int, count: int, bits: int, size: float) -> None:
    random = np.random.default_rng(seed)
    inputs = directions_of(random, count, columns, size)
    left, right = (random.standard_normal((3, width)).astype(np.float32) for width in (rows, columns))
    shape = Shape.of(inputs, left, right)
    top = (1 << bits) - 1
    codes = random.integers(0, top + 1, (rows, columns)).astype(np.float32)
    steps = ((random.random((rows, columns)) - 0.3) * size).astype(np.float32)
    steps[steps == 0] = 1.0
    delta = (random.standard_normal((rows, columns)) * size * 0.1).astype(np.float32)
    some = np.arange(rows)

    def compute() -> tuple[Array, ...]:
        shaper = Shaper(shape, columns)
        # Twice, so that what is owed goes into the second.
        return shaper.round(codes, steps, delta, some, top), shaper.round(codes, steps, delta, some, top)

    for one, other in zip(*both_ways(compute), strict=True):
        assert np.array_equal(one, other)
        assert one.min() >= 0
        assert one.max() <= top


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 70),
    groups=st.integers(1, 6),
    group_size=st.sampled_from([32, 64, 128]),
    count=st.integers(0, 40),
    size=sizes,
)
@settings(max_examples=60)
def test_scales_are_fitted_alike(
    seed: int, rows: int, groups: int, group_size: int, count: int, size: float
) -> None:
    random = np.random.default_rng(seed)
    columns = groups * group_size
    inputs = directions_of(random, count, columns, size)
    fit = Fit.of(*metric(inputs, random.standard_normal((2, columns)).astype(np.float32)), group_size)
    codes = random.integers(0, 16, (rows, columns)).astype(np.float32)
    codes[0, :group_size] = 7.0  # a scale and a bias that nothing tells apart
    wanted = (random.standard_normal((rows, columns)) * size * 0.01).astype(np.float32)
    for one, other in zip(*both_ways(lambda: fit.changes(codes, wanted)), strict=True):
        assert one.shape == other.shape == (rows, groups)
        assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_fuse_has_the_same_bytes(
    calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse, fitted: bool
) -> None:
    base, adapter, calibration = calibrated
    policy = WritePolicy("dither", calibration=calibration, fitted=fitted)
    _, compiled = our_fuse(base, adapter, policy, name="compiled", threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "compiled", None)
        _, plain = our_fuse(base, adapter, policy, name="plain", threads=2)
    assert (plain.files, plain.fidelity) == (compiled.files, compiled.fidelity)


@pytest.mark.parametrize("wrong", range(6))
def test_buffers_that_do_not_fit_are_refused(wrong: int) -> None:
    compiled = kernel.compiled
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
        (compiled.shape, shaped, (4, 2, 3), 15.0, ((-1, 2, 3), (huge, huge, huge))),
        (compiled.fit, fitted, (5, 2, 32, 3), 1e-3, ((5, huge, 32, huge),)),
    ):
        call(*buffers, sizes, last)
        for other in bad:
            with pytest.raises(ValueError, match="do not fit"):
                call(*buffers, other, last)
        buffers[wrong] = buffers[wrong].reshape(-1)[:-1].copy()
        with pytest.raises(ValueError, match="do not fit"):
            call(*buffers, sizes, last)
