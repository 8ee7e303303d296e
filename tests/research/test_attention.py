"""Attention by NumPy against mlx's own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fusery.research.attention import attention_in_numpy

RANDOM = np.random.default_rng(7)
LENGTH, REACH = 6, 9
MASKS = {
    "none": None,
    "causal": "causal",
    "boolean": mx.array(np.tri(LENGTH, REACH, 3, bool)),
    "boolean by head": mx.array(
        np.tri(LENGTH, REACH, 1, bool)[None, None] & (RANDOM.random((2, 4, 6, 9)) < 2)
    ),
    "added": mx.array(RANDOM.standard_normal((2, 1, LENGTH, REACH)), mx.float32),
}


def inputs(heads: int = 4, groups: int = 2, dtype: Any = mx.float32) -> list[mx.array]:
    random = np.random.default_rng(groups)
    shapes = (2, heads, LENGTH, 16), (2, groups, REACH, 16), (2, groups, REACH, 8)
    return [mx.array(random.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_gives_and_goes_back_as_mlx_does(name: str, groups: int) -> None:
    parts = inputs(groups=groups)
    weights = mx.array(np.random.default_rng(3).standard_normal((2, 4, LENGTH, 8)), mx.float32)

    def answer(*given: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(*given, scale=0.25, mask=MASKS[name])

    def both() -> list[Any]:
        gradient = mx.grad(lambda *given: (answer(*given) * weights).sum(), argnums=(0, 1, 2))
        return [np.array(part) for part in (answer(*parts), *gradient(*parts))]

    expected = both()
    with attention_in_numpy():
        got = both()
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6)


def test_what_it_does_not_know_is_left_to_mlx() -> None:
    cases: list[tuple[list[mx.array], dict[str, Any]]] = [
        (inputs(), {"sinks": mx.array([0.5, -1.0, 0.25, 2.0], mx.float32)}),
        (inputs(dtype=mx.float16), {}),
    ]
    for parts, options in cases:
        expected = mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask="causal", **options)
        with attention_in_numpy():
            got = mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask="causal", **options)
        assert got.dtype == expected.dtype
        assert mx.array_equal(got, expected)


def test_it_is_taken_away_again_also_after_a_failure() -> None:
    before = mx.fast.scaled_dot_product_attention
    with pytest.raises(ZeroDivisionError), attention_in_numpy():
        assert mx.fast.scaled_dot_product_attention is not before
        raise ZeroDivisionError
    assert mx.fast.scaled_dot_product_attention is before
