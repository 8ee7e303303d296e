"""The command that makes an artifact again, as text; `tests/cli/test_fidelity.py` runs it."""

from __future__ import annotations

from typing import Any

import pytest

from fusery.registry.engine.recipe import Recipe
from fusery.registry.fusion.rebuild_command import rebuild_command


def command(recipe: Recipe, *extras: tuple[str, float], **facts: Any) -> str:
    plain: dict[str, Any] = {"base_bits": 4, "verdict": "PASS", "retained": 0.987, "size": 1_100_000}
    plain["numbers"] = {"a": 800_000, "b": 800_000}
    found = rebuild_command("a_v1_20260115", recipe.to_dict(), extras, **{**plain, **facts})
    assert found.startswith("fusery fuse a_v1_20260115 ")
    return found.removeprefix("fusery fuse a_v1_20260115 ")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("keep"), "--precision keep"),
        (Recipe("keep", scale=-2.0), "--precision keep --scale -2.0"),
        (Recipe("keep", rounding="once"), "--precision keep --rounding once"),
        (Recipe("dither", seed=0), "--precision dither"),
        (Recipe("dither", seed=7), "--precision dither --seed 7"),
        (Recipe("mixed", bits={"": 5}), "--precision mixed"),
        (Recipe("mixed", bits={"": 6}), "--precision mixed --min-fidelity 0.97"),
        (Recipe("mixed", bits={"a": 5, "b": 4}), "--precision mixed --budget 1.10005x"),
        (
            Recipe("dequantize", quantization={"bits": 8, "group_size": 32, "mode": "mxfp8"}),
            "--quantize 8 --group-size 32 --mode mxfp8",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_recipe_has_its_options(recipe: Recipe, expected: str) -> None:
    assert command(recipe) == expected


def test_the_narrowest_step_needs_no_minimum() -> None:
    assert command(Recipe("mixed", bits={"": 8}), base_bits=6) == "--precision mixed"
    assert "--min-fidelity" not in command(Recipe("mixed", bits={"": 8}), retained=None)


def test_what_was_accepted_is_accepted_again() -> None:
    assert command(Recipe("keep"), verdict="LOST") == "--precision keep --accept-loss"


def test_further_adapters_come_with_their_weights() -> None:
    said = command(Recipe("keep"), ("b_v1_20260115", 0.5), ("c_v1_20260115", -1e-07))
    assert said == "--precision keep --with b_v1_20260115:0.5 --with c_v1_20260115:-1e-07"
