"""Precisions: what is written of a module, and whether plain mlx-lm can use it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from fusery.registry.engine.affine import Grid
from fusery.registry.engine.architectures import TENSOR_SCALED
from fusery.registry.engine.arithmetic import BF16, F32
from fusery.registry.engine.grids import AnyGrid
from fusery.registry.engine.microscaling import MODES
from fusery.registry.engine.policy import Quantize, WritePolicy, WriteTarget
from fusery.registry.engine.recipe import DEQUANTIZE, DITHER, KEEP, MIXED, OWN, Recipe, artifact_key
from fusery.registry.errors import FusionUnsupportedError

FOUR = Grid(4, 64, BF16)
MX4, NV4 = MODES["mxfp4"], MODES["nvfp4"]


def target(
    policy: WritePolicy,
    grid: AnyGrid | None,
    *,
    columns: int = 256,
    path: str = "up_proj",
    dora: bool = False,
) -> WriteTarget:
    return policy.target(path, grid, F32 if dora else BF16, columns, adapted=True)


TARGETS: dict[str, tuple[WritePolicy, AnyGrid | None, WriteTarget]] = {
    "keep, 4 bits": (WritePolicy(KEEP), FOUR, WriteTarget(FOUR, BF16)),
    "dither, 4 bits": (WritePolicy(DITHER), FOUR, WriteTarget(FOUR, BF16, dither=True)),
    "dither, dense": (WritePolicy(DITHER), None, WriteTarget(None, BF16)),
    "dither, nvfp4": (WritePolicy(DITHER), NV4, WriteTarget(NV4, BF16, dither=True)),
    "dequantize, 4 bits": (WritePolicy(DEQUANTIZE), FOUR, WriteTarget(None, BF16)),
    "mixed, 8 bits unless told": (WritePolicy(MIXED), FOUR, WriteTarget(Grid(8, 64, BF16), BF16)),
    "mixed, dense": (WritePolicy(MIXED), None, WriteTarget(None, BF16)),
    "mixed, this one": (
        WritePolicy(MIXED, {"": 5, "up_proj": 6}),
        FOUR,
        WriteTarget(Grid(6, 64, BF16), BF16),
    ),
    "mixed, mxfp4": (WritePolicy(MIXED), MX4, WriteTarget(Grid(8, 32, BF16), BF16)),
    "mixed, nvfp4 in groups of 16": (WritePolicy(MIXED), NV4, WriteTarget(Grid(8, 32, BF16), BF16)),
}


@pytest.mark.parametrize(("policy", "grid", "expected"), TARGETS.values(), ids=TARGETS)
def test_targets(policy: WritePolicy, grid: AnyGrid | None, expected: WriteTarget) -> None:
    assert target(policy, grid) == expected


def test_dora_is_written_in_float32_but_not_dithered() -> None:
    assert target(WritePolicy(KEEP), FOUR, dora=True) == WriteTarget(Grid(4, 64, F32), F32)
    assert target(WritePolicy(KEEP), None, dora=True) == WriteTarget(None, F32)
    assert target(WritePolicy(KEEP), MX4, dora=True).grid is MX4
    assert target(WritePolicy(DEQUANTIZE), FOUR, dora=True) == WriteTarget(None, F32)
    assert target(WritePolicy(MIXED), FOUR, dora=True) == WriteTarget(Grid(8, 64, F32), F32)
    assert target(WritePolicy(DITHER), FOUR, dora=True) == WriteTarget(FOUR, BF16, dither=True)


def test_mixed_needs_groups_of_32() -> None:
    assert target(WritePolicy(MIXED), NV4, columns=96).grid == Grid(8, 32, BF16)
    with pytest.raises(FusionUnsupportedError, match="up_proj"):
        target(WritePolicy(MIXED), NV4, columns=48)


def test_formats_that_mlx_does_not_have() -> None:
    for bits, group_size, mode in (
        *((bits, 64, "affine") for bits in (1, 7, 16)),
        *((4, size, "affine") for size in (0, 16)),
        *(
            (4, 64, "mxfp4"),
            (8, 32, "mxfp4"),
            (4, 32, "nvfp4"),
            (4, 32, "mxfp8"),
            (4, 64, ""),
            (4, 64, "x" * 99),
        ),
    ):
        with pytest.raises(FusionUnsupportedError) as caught:
            Quantize(bits, group_size, mode)
        assert len(caught.value.message) < 150
    for bits in (1, 7, 16, -4):
        for mapping in ({"": bits}, {"": 6, "up_proj": bits}):
            with pytest.raises(FusionUnsupportedError):
                WritePolicy(MIXED, mapping)
    with pytest.raises(FusionUnsupportedError):
        Quantize(4, 16, TENSOR_SCALED).grid(BF16)


def test_only_mixed_with_a_calibration_is_allowed_more_noise() -> None:
    file: Any = object()
    asked = ((MIXED, file), (MIXED, None), (KEEP, file))
    allowed = [WritePolicy(kind, calibration=read).is_mixed_and_shaped for kind, read in asked]
    assert allowed == [True, False, False]


@pytest.mark.parametrize("grid", [FOUR, MX4], ids=["affine", "mxfp4"])
def test_mixed_leaves_the_format_of_the_base_where_a_recipe_says_so(grid: AnyGrid) -> None:
    for dora in (False, True):
        own = target(WritePolicy(MIXED, {"up_proj": OWN, "": 6}), grid, dora=dora, path="up_proj")
        assert own == target(WritePolicy(KEEP), grid, dora=dora)


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


def test_a_recipe_comes_back_from_its_json() -> None:
    aware = {"bits": 4, "group_size": 64, "mode": "affine"}
    plain = Recipe(KEEP)
    assert plain.to_dict().keys() == {"precision", "engine", "quantization", "scale", "seed"}
    full = Recipe(
        MIXED, scale=2.0, seed=3, bits={"": 6}, calibration="c", rounding="once", biases=True, fitted=True,
        aware=aware, quantization=aware, extras=(("d", 0.5),),
    )  # fmt: skip
    for recipe in (plain, full):
        assert Recipe.from_dict(recipe.to_dict()) == recipe
