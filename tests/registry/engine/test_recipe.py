from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from fusery.registry.engine.recipe import Recipe, artifact_key


def test_the_key_is_stable() -> None:
    key = artifact_key("a" * 64, "b" * 64, Recipe("keep"))
    assert key == "0e97d63272730c27efde4a62916ef92adf0a6044eba8da54c914c9d091c6bdb3"


def test_every_choice_changes_the_key() -> None:
    recipe = Recipe("keep")
    changes: tuple[dict[str, Any], ...] = (
        {"precision": "dequantize"},
        {"engine": "canonical-2"},
        {"quantization": {"bits": 4}},
    )
    others = [
        dataclasses.replace(recipe, **change)
        for change in (*changes, {"scale": 1.0}, {"seed": 1}, {"rounding": "once"})
    ]
    keys = {artifact_key("a" * 64, "b" * 64, each) for each in (recipe, *others)}
    assert len(keys | {artifact_key("b" * 64, "a" * 64, recipe)}) == 8


@pytest.mark.timing
def test_a_recipe_needs_no_numpy() -> None:
    script = "import sys; sys.modules['numpy'] = None; import fusery.registry.engine.recipe"
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
