from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_numbers import from_mlx, to_mlx

from fusery.registry.engine.affine import BITS, GROUP_SIZES, Grid, Packed, pack_rows, unpack_rows
from fusery.registry.engine.arithmetic import FORMATS, Array, Format, decode, encode

mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.usefixtures("no_warnings")
forms = st.sampled_from(list(FORMATS.values()))
grids = st.builds(Grid, st.sampled_from(BITS), st.sampled_from(GROUP_SIZES), forms)


def rows_of(seed: int, form: Format, columns: int, spread: float) -> Array:
    random = np.random.default_rng(seed)
    values = random.standard_normal((12, columns)) * 10.0 ** random.uniform(-spread, 0, (12, 1))
    values[0] = 0
    values[1] = values[1, 0]
    values[2], values[3] = np.abs(values[2]), -np.abs(values[3])
    values[4] *= 1e-6
    values[5, ::7] *= 50
    values[6, ::2] = -0.0
    values[7] = np.round(values[7] * 8) / 8
    return encode(values.astype(np.float32), form)


@settings(max_examples=150)
@given(grid=grids, seed=st.integers(0, 1 << 30), spread=st.floats(0, 4))
def test_quantising_and_dequantising_have_the_bits_of_mlx(grid: Grid, seed: int, spread: float) -> None:
    stored = rows_of(seed, grid.form, 256, spread)
    theirs = mx.quantize(to_mlx(stored, grid.form), group_size=grid.group_size, bits=grid.bits)
    packed = pack_rows(decode(stored, grid.form).reshape(-1, grid.group_size), grid)
    for ours, part in zip((packed.words, packed.scales, packed.biases), theirs, strict=True):
        np.testing.assert_array_equal(ours.reshape(12, -1), from_mlx(part))
    plain = mx.dequantize(*theirs, group_size=grid.group_size, bits=grid.bits)
    ours = encode(unpack_rows(packed, grid), grid.form).reshape(12, -1)
    np.testing.assert_array_equal(ours, from_mlx(plain))


@given(grid=grids, seed=st.integers(0, 1 << 30))
def test_dequantising_any_codes_and_scales_has_the_bits_of_mlx(grid: Grid, seed: int) -> None:
    random = np.random.default_rng(seed)
    words = random.integers(0, 1 << 32, (6, grid.words(256)), dtype=np.uint32)
    shape = (6, 256 // grid.group_size)
    scales, biases = (
        encode(
            (random.standard_normal(shape) * 10.0 ** random.uniform(-8, 2, shape)).astype(np.float32),
            grid.form,
        )
        for _ in range(2)
    )
    parts = (to_mlx(part, grid.form) for part in (scales, biases))
    theirs = mx.dequantize(mx.array(words), *parts, group_size=grid.group_size, bits=grid.bits)
    packed = Packed(words.reshape(-1, grid.words_per_group), scales.reshape(-1), biases.reshape(-1))
    ours = unpack_rows(packed, grid)
    np.testing.assert_array_equal(encode(ours, grid.form).reshape(6, -1), from_mlx(theirs))
