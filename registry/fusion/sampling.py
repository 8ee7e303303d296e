"""What a sample of the rows says of a recipe, before anything is written of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.recipe import Recipe
from .fuse_inputs import InputFiles
from .known import Measured
from .request import FuseRequest

if TYPE_CHECKING:
    from ..engine.allocate import Sampled


def look_at(
    inputs: InputFiles, recipe: Recipe, request: FuseRequest, *, strict: bool, sound: bool = False
) -> tuple[Sampled, bool]:
    """Return a sample of what a recipe writes, and whether it is rounded as the whole will be.

    The recipe's calibration shapes it only where that matters: what is too loud at random no calibration mends, and what passes
    at random is measured whole.

    Args:
        inputs: files of the base and the adapters.
        recipe: how a base and adapters are fused.
        request: what was asked for.
        strict: as `Measured.passes` takes it.
        sound: likewise.
    """
    found = inputs.sample(recipe)
    if recipe.calibration is None:
        return found, True
    measured = Measured.of_sample(found.fidelity, recipe)
    if measured.passes(request, strict=strict, sound=sound) or not measured.is_quiet:
        return found, False
    return inputs.sample(recipe, shaped=True), True
