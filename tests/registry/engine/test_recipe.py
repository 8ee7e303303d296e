from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from fusery.registry.engine.recipe import ENGINE, Recipe, artifact_key


def test_the_key_is_stable() -> None:
    key = artifact_key("a" * 64, "b" * 64, Recipe("keep"))
    assert key == "0e97d63272730c27efde4a62916ef92adf0a6044eba8da54c914c9d091c6bdb3"


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "dequantize"},
        {"engine": "canonical-2"},
        {"quantization": {"bits": 4}},
        {"scale": 1.0},
        {"seed": 1},
        {"rounding": "once"},
    ],
    ids=str,
)
def test_every_choice_changes_the_key(change: dict[str, Any]) -> None:
    recipe = Recipe("keep")
    other = dataclasses.replace(recipe, **change)
    assert artifact_key("a" * 64, "b" * 64, recipe) != artifact_key("a" * 64, "b" * 64, other)


def test_base_and_adapter_are_not_interchangeable() -> None:
    recipe = Recipe("keep")
    assert artifact_key("a" * 64, "b" * 64, recipe) != artifact_key("b" * 64, "a" * 64, recipe)


def test_the_json_form() -> None:
    assert Recipe("keep", scale=2.0).to_dict() == {
        "precision": "keep",
        "engine": ENGINE,
        "quantization": None,
        "scale": 2.0,
        "seed": None,
    }


def test_a_recipe_needs_no_numpy() -> None:
    script = "import sys; sys.modules['numpy'] = None; import fusery.registry.engine.recipe"
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
