"""Precisions: what is written of a module, and whether plain mlx-lm can use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from fusery.registry.engine.affine import Grid
from fusery.registry.engine.arithmetic import BF16, F32
from fusery.registry.engine.grids import AnyGrid
from fusery.registry.engine.microscaling import MODES
from fusery.registry.engine.policy import (
    Policy,
    Quantize,
    Target,
)
from fusery.registry.engine.precisions import DEQUANTIZE, DITHER, KEEP, MIXED
from fusery.registry.engine.recipe import OWN
from fusery.registry.errors import FusionUnsupportedError

from .conftest import OurFuse

FOUR = Grid(4, 64, BF16)
MX4, NV4 = MODES["mxfp4"], MODES["nvfp4"]


def target(
    policy: Policy, grid: AnyGrid | None, *, columns: int = 256, path: str = "up_proj", dora: bool = False
) -> Target:
    return policy.target(path, grid, F32 if dora else BF16, columns, adapted=True)


TARGETS: dict[str, tuple[Policy, AnyGrid | None, Target]] = {
    "keep, 4 bits": (Policy(KEEP), FOUR, Target(FOUR, BF16)),
    "dither, 4 bits": (Policy(DITHER), FOUR, Target(FOUR, BF16, dither=True)),
    "dither, dense": (Policy(DITHER), None, Target(None, BF16)),
    "dither, nvfp4": (Policy(DITHER), NV4, Target(NV4, BF16, dither=True)),
    "dequantize, 4 bits": (Policy(DEQUANTIZE), FOUR, Target(None, BF16)),
    "mixed, 8 bits unless told": (Policy(MIXED), FOUR, Target(Grid(8, 64, BF16), BF16)),
    "mixed, dense": (Policy(MIXED), None, Target(None, BF16)),
    "mixed, this one": (Policy(MIXED, {"": 5, "up_proj": 6}), FOUR, Target(Grid(6, 64, BF16), BF16)),
    "mixed, mxfp4": (Policy(MIXED), MX4, Target(Grid(8, 32, BF16), BF16)),
    "mixed, nvfp4 in groups of 16": (Policy(MIXED), NV4, Target(Grid(8, 32, BF16), BF16)),
}


@pytest.mark.parametrize(("policy", "grid", "expected"), TARGETS.values(), ids=TARGETS)
def test_targets(policy: Policy, grid: AnyGrid | None, expected: Target) -> None:
    assert target(policy, grid) == expected


def test_dora_is_written_in_float32_but_not_dithered() -> None:
    assert target(Policy(KEEP), FOUR, dora=True) == Target(Grid(4, 64, F32), F32)
    assert target(Policy(KEEP), None, dora=True) == Target(None, F32)
    assert target(Policy(KEEP), MX4, dora=True).grid is MX4
    assert target(Policy(DEQUANTIZE), FOUR, dora=True) == Target(None, F32)
    assert target(Policy(MIXED), FOUR, dora=True) == Target(Grid(8, 64, F32), F32)
    assert target(Policy(DITHER), FOUR, dora=True) == Target(FOUR, BF16, dither=True)


def test_mixed_needs_groups_of_32() -> None:
    assert target(Policy(MIXED), NV4, columns=96).grid == Grid(8, 32, BF16)
    with pytest.raises(FusionUnsupportedError, match="up_proj"):
        target(Policy(MIXED), NV4, columns=48)


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
                Policy(MIXED, mapping)


@pytest.mark.parametrize("grid", [FOUR, MX4], ids=["affine", "mxfp4"])
def test_mixed_leaves_the_format_of_the_base_where_a_recipe_says_so(grid: AnyGrid) -> None:
    for dora in (False, True):
        own = target(Policy(MIXED, {"up_proj": OWN, "": 6}), grid, dora=dora, path="up_proj")
        assert own == target(Policy(KEEP), grid, dora=dora)


def logits(folder: Path, adapter: Path | None = None) -> np.ndarray[Any, Any]:
    import mlx.core as mx
    from mlx_lm import load

    model, _ = load(str(folder), adapter_path=None if adapter is None else str(adapter))[:2]
    tokens = mx.array([[72, 101, 108, 108, 111, 32, 116, 104, 101, 114, 101]])
    return np.array(model(tokens).astype(mx.float32))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        (Policy(MIXED, {"": 6, "model.layers.3.mlp.up_proj": 8, "model.layers.2.mlp.up_proj": 5}), 0.4),
        (Policy(DEQUANTIZE), 1e-3),
        (Policy(KEEP, quantize=Quantize(8, 32)), 0.2),
    ],
    ids=["several widths", "dequantize", "quantised at 8 bits"],
)
def test_result_behaves_like_base_and_adapter(
    policy: Policy, limit: float, tmp_path: Path, our_fuse: OurFuse
) -> None:
    pytest.importorskip("mlx_lm")
    base = tiny_models.make_base(tmp_path / "base", bits=4, dtype="float32")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.5)
    folder, _ = our_fuse(base, adapter, policy)
    before, intended, after = logits(base), logits(base, adapter), logits(folder)
    change = np.linalg.norm(intended - before)
    assert change > 0.1 * np.linalg.norm(before)
    assert np.linalg.norm(after - intended) < limit * change
