"""The compiled halves of shaped rounding and of the fit against NumPy's: the same bits, whatever the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.engine import kernel
from fusery.registry.engine.arithmetic import Array
from fusery.registry.engine.calibration import Calibration, Directions
from fusery.registry.engine.fitting import Fit
from fusery.registry.engine.policy import Policy
from fusery.registry.engine.shaping import Shape, Shaper, metric

from .conftest import OurFuse

pytestmark = pytest.mark.skipif(kernel.compiled is None, reason="the compiled arithmetic was not built")

sizes = st.sampled_from([1.0, 1e-3, 1e-8, 30.0, 1e4])


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def both_ways(compute: object) -> list[tuple[Array, ...]]:
    """Return what is computed with the compiled half, and without."""
    found = []
    for compiled in (kernel.compiled, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "compiled", compiled)
            found.append(compute())  # type: ignore[operator]
    return found


def shape_of(
    random: np.random.Generator, rows: int, columns: int, count: int, rank: int, size: float
) -> Shape:
    inputs = Directions(
        (random.standard_normal((count, columns)) * size).astype(np.float32),
        (random.random(columns) * size).astype(np.float32),
        float(size),
    )
    left, right = (random.standard_normal((rank, width)).astype(np.float32) for width in (rows, columns))
    return Shape.of(inputs, left, right)


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 140),
    columns=st.integers(1, 3).map(lambda groups: 32 * groups),
    count=st.integers(0, 40),
    bits=st.sampled_from([2, 3, 4, 8]),
    size=sizes,
)
@settings(max_examples=60)
def test_codes_are_chosen_alike(
    seed: int, rows: int, columns: int, count: int, bits: int, size: float
) -> None:
    random = np.random.default_rng(seed)
    shape = shape_of(random, rows, columns, count, 3, size)
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
def test_scales_and_biases_are_fitted_alike(
    seed: int, rows: int, groups: int, group_size: int, count: int, size: float
) -> None:
    random = np.random.default_rng(seed)
    columns = groups * group_size
    inputs = Directions(
        (random.standard_normal((count, columns)) * size).astype(np.float32),
        (random.random(columns) * size).astype(np.float32),
        float(size),
    )
    fit = Fit.of(*metric(inputs, random.standard_normal((2, columns)).astype(np.float32)), group_size)
    codes = random.integers(0, 16, (rows, columns)).astype(np.float32)
    codes[0, :group_size] = 7.0  # a scale and a bias that nothing tells apart
    wanted = (random.standard_normal((rows, columns)) * size * 0.01).astype(np.float32)
    for one, other in zip(*both_ways(lambda: fit.changes(codes, wanted)), strict=True):
        assert one.shape == other.shape == (rows, groups)
        assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_fuse_has_the_same_bytes_either_way(
    calibrated: tuple[Path, Path, Calibration], our_fuse: OurFuse, fitted: bool
) -> None:
    """With the compiled half and without, on one thread and on two."""
    base, adapter, calibration = calibrated
    policy, made = Policy("dither", calibration=calibration, fitted=fitted), []
    for compiled in (kernel.compiled, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "compiled", compiled)
            for threads in (1, 2):
                name = f"{compiled is None}-{threads}"
                made.append(our_fuse(base, adapter, policy, name=name, threads=threads)[1])
    assert len({repr(sorted(fused.files, key=str)) for fused in made}) == 1
    assert len({repr(fused.fidelity) for fused in made}) == 1


@pytest.mark.parametrize("wrong", range(6))
def test_buffers_that_do_not_fit_are_refused(wrong: int) -> None:
    shaped = [np.zeros((4, 2), np.float32) for _ in range(3)] + [
        np.zeros((4, 3), np.float32) for _ in range(2)
    ]
    shaped += [np.zeros((4, 2), np.float32)]
    fitted = [np.zeros((2, 32, 3)), np.zeros((2, 32)), *(np.zeros((5, 64), np.float32) for _ in range(2))]
    fitted += [np.zeros((5, 2)) for _ in range(2)]
    compiled = kernel.compiled
    compiled.shape(*shaped, (4, 2, 3), 15.0)
    compiled.fit(*fitted, (5, 2, 32, 3), 1e-3)
    for call, buffers, more in (
        (compiled.shape, shaped, ((4, 2, 3), 15.0)),
        (compiled.fit, fitted, ((5, 2, 32, 3), 1e-3)),
    ):
        buffers[wrong] = buffers[wrong].reshape(-1)[:-1].copy()
        with pytest.raises(ValueError, match="do not fit"):
            call(*buffers, *more)
    for call, numbers in ((compiled.shape, (-1, 2, 3)), (compiled.shape, (1 << 40, 1 << 40, 1 << 40))):
        with pytest.raises(ValueError, match="do not fit"):
            call(*shaped, numbers, 15.0)
    with pytest.raises(ValueError, match="do not fit"):
        compiled.fit(*fitted, (5, 1 << 40, 32, 1 << 40), 1e-3)
