from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mlx_numbers import from_mlx, mlx_type, to_mlx

from fusery.registry.engine.arithmetic import F32, FORMATS, Array, Format, decode, encode
from fusery.registry.engine.magnitude import (
    intended_change,
    rescale,
    result_form,
    row_factors,
    row_norms,
    spare_size,
)

mx = pytest.importorskip("mlx.core")
forms = pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)


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


@forms
def test_norms_have_the_bits_of_mlx(form: Format) -> None:
    for rows, columns in SHAPES:
        assert_norms(weights(rows * columns, rows, columns, form), form)


def assert_norms(stored: Array, form: Format) -> None:
    np.testing.assert_array_equal(encode(norms_of(decode(stored, form), form), form), theirs(stored, form))


AWKWARD = [
    *(0.0, -0.0, 1e-45, 1e-39, 3e-23, 1e-20, 1e-8, 3e-4, 255.0, 256.0, 65504.0, 1e19, 2e19, 3e38),
    *(np.inf, np.nan),
]


@forms
def test_norms_of_awkward_rows(form: Format) -> None:
    with np.errstate(all="ignore"):
        for value in AWKWARD:
            stored = weights(3, 9, 40, form)
            stored[2, 5:9] = encode(np.array([value], np.float32), form)[0]
            stored[4] = stored[2, 5]
            assert_norms(stored, form)


@forms
@pytest.mark.parametrize("m_form", FORMATS.values(), ids=lambda form: f"m-{form.name}")
def test_rescaled_rows_have_the_bits_of_mlx(m_form: Format, form: Format) -> None:
    stored = weights(4, 60, 200, form, 1)
    m = encode(np.abs(np.random.default_rng(5).standard_normal(60)).astype(np.float32), m_form)
    weight = to_mlx(stored, form)
    expected = (to_mlx(m, m_form) / mx.linalg.norm(weight, axis=1))[:, None] * weight
    result = result_form(m_form, form)
    assert expected.dtype == mlx_type(result)
    values = decode(stored, form)
    factors = row_factors(decode(m, m_form), norms_of(values, form), result)
    for exact in (True, False):
        out, scratch = np.empty_like(values), np.empty_like(values)
        rescale(values, factors[:, None], result, scratch, out, exact=exact)
        np.testing.assert_array_equal(encode(out, result), from_mlx(expected))
    rescale(values, factors[:, None], result, scratch, values, exact=False)
    np.testing.assert_array_equal(values, out)


@forms
def test_rows_of_zeros_become_nan_as_in_mlx(form: Format) -> None:
    stored = weights(6, 8, 32, form)
    stored[3:5] = 0
    m = np.ones(8, np.float32)
    m[4] = 0
    weight = to_mlx(stored, form)
    expected = np.array((mx.array(m) / mx.linalg.norm(weight, axis=1))[:, None] * weight)
    values = decode(stored, form)
    factors, out = row_factors(m, norms_of(values, form), F32), np.empty_like(values)
    with np.errstate(invalid="ignore"):
        rescale(values, factors[:, None], F32, np.empty_like(values), out, exact=False)
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(out[3:5]).all()
    assert np.isfinite(np.delete(out, [3, 4], axis=0)).all()


def run_time_weight(base: Array, a: Array, b: Array, m: Array, scale: float) -> Array:
    """Return the weight that DoRALinear computes with, read off its outputs for the unit vectors."""
    dora = pytest.importorskip("mlx_lm.tuner.dora")
    from mlx import nn

    linear = nn.Linear(base.shape[1], base.shape[0], bias=False)
    linear.weight = mx.array(base)
    layer = dora.DoRALinear.from_base(linear, r=len(b), dropout=0.0, scale=scale)
    layer.lora_a, layer.lora_b, layer.m = mx.array(a), mx.array(b), mx.array(m)
    layer.eval()
    return np.array(layer(mx.eye(base.shape[1]))).T


def test_the_intended_change_is_what_the_adapter_does_at_run_time() -> None:
    random = np.random.default_rng(7)
    base, a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((24, 40), (40, 4), (4, 24)))
    m = np.abs(random.standard_normal(24)).astype(np.float32) * 6
    delta = (np.float32(0.5) * b.T) @ a.T
    factors, out = row_factors(m, norms_of(base + delta, F32), F32), np.empty_like(base)
    intended_change(base, delta, factors[:, None], out)
    np.testing.assert_allclose(out, run_time_weight(base, a, b, m, 0.5) - base, rtol=0, atol=2e-5)
    # An adapter that learned nothing intends nothing.
    unchanged, out = np.array(mx.linalg.norm(mx.array(base), axis=1)), np.zeros_like(base)
    intended_change(base, out, row_factors(unchanged, norms_of(base, F32), F32)[:, None], out)
    assert not out.any()
