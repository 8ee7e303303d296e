"""The size of a base's numbers, from a few rows: dense and packed, and left out where rows cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from fusery.registry.bases.add import model_files
from fusery.registry.models.weight_sizes import weight_sizes
from fusery.storage.jsonfile import read_object

MODULE = "model.layers.1.mlp.down_proj"


def sizes(folder: Path, *modules: str) -> dict[str, float]:
    return weight_sizes(model_files(folder), read_object(folder / "config.json"), modules)


@pytest.mark.parametrize(
    "made",
    [
        {"dtype": "float16"},
        {"bits": 4},
        {"bits": 8, "group_size": 32},
        {"bits": 4, "overrides": {MODULE: {"bits": 8, "group_size": 32}}},
        {"bits": 4, "overrides": {MODULE: False}},
        {"shards": 3},
    ],
    ids=str,
)
def test_it_is_that_of_the_numbers(made: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", **made)
    # Weights are normal numbers over the square root of their columns.
    assert sizes(folder, MODULE)[MODULE] == pytest.approx(1 / np.sqrt(256), rel=0.05)


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layout="hf")
    assert sizes(folder, "model.norm", "model.nothing", MODULE).keys() == {MODULE}
    rearranged = {**read_object(folder / "config.json"), "model_type": "not_known_here"}
    assert weight_sizes(model_files(folder), rearranged, [MODULE]) == {}
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert sizes(folder, MODULE) == {}
