"""Weights in whole numbers: in proportion, in bounds, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.bundles.cluster.rewrites import MOST, whole_weights
from fusery.registry.errors import BadInputError

PARTS = st.dictionaries(
    st.text(min_size=1, max_size=5), st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=5
).filter(lambda parts: sum(parts.values()) > 0)


@given(PARTS)
def test_weights_are_whole_and_in_proportion(parts: dict[str, float]) -> None:
    total = sum(parts.values())
    try:
        found = whole_weights("mix", parts)
    except BadInputError as error:
        assert error.hint
        assert any(0 < weight < total / MOST for weight in parts.values())
        return
    assert found.keys() == {target for target, weight in parts.items() if weight > 0}
    assert all(1 <= weight <= MOST for weight in found.values())
    for target, weight in found.items():
        assert weight / sum(found.values()) == pytest.approx(parts[target] / total, abs=3 / MOST)


def test_weights_are_as_small_as_they_can_be() -> None:
    for parts, found in (
        ({"a": 0.9, "b": 0.1}, {"a": 9, "b": 1}),
        ({"a": 95.0, "b": 5.0}, {"a": 19, "b": 1}),
        ({"a": 1.0, "b": 0.0}, {"a": 1}),
        ({"a": 0.1 + 0.2, "b": 0.7}, {"a": 300000, "b": 700000}),
        ({"a": 1 / 3, "b": 2 / 3}, {"a": 1, "b": 2}),
        ({"a": 1 / 3, "b": 1 / 7}, {"a": 700000, "b": 300000}),
        ({"a": 1e-300, "b": 1e-300}, {"a": 1, "b": 1}),
    ):
        assert whole_weights("mix", parts) == found
    with pytest.raises(BadInputError):
        whole_weights("mix", {"a": 1.0, "b": 1e-9})
