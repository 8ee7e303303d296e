"""Recipes of combinations, read from what an adapter's configuration says."""

from __future__ import annotations

from typing import Any

from fusery.registry.records.recipe import recipe_in

KNOWN = {
    "method": "linear", "sources": ["a" * 64, "b" * 64], "weights": [1, 0.5], "density": None, "seed": None, "rank": 4,
    "fusery": "1.0",
}  # fmt: skip


def test_a_recipe_of_another_form_is_none() -> None:
    for change in ({}, {"density": 0.5, "seed": 0}, {"seed": 3, "sources": ["a" * 64] * 2}):
        recipe = recipe_in({"fusery_recipe": KNOWN | change})
        assert recipe is not None and (recipe.weights, recipe.rank) == ((1.0, 0.5), 4)
    assert recipe_in({"fusery_recipe": [KNOWN]}) is None
    changes: dict[str, list[Any]] = {
        "method": [1], "sources": [[], ["x"] * 2, ["a" * 64], "a" * 64, [1, 2]], "fusery": [None], "more": [1],
        "weights": [[1.0, "a"], [float("inf"), 1.0], [True, 1.0]], "rank": [-1, True, 1 << 63], "seed": [-1, "1"],
        "density": ["1", True],
    }  # fmt: skip
    for name, values in changes.items():
        for value in values:
            assert recipe_in({"fusery_recipe": {**KNOWN, name: value}}) is None, (name, value)
