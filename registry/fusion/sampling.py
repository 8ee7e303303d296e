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
) -> tuple[Sampled, Measured]:
    """Return a sample of what a recipe writes, and its overall figures.

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
    measured = Measured.of_sample(found.fidelity, recipe, at_random=recipe.calibration is not None)
    passes = measured.passes(request, strict=strict, sound=sound)
    if recipe.calibration is None or passes or not measured.is_quiet:
        return found, measured
    found = inputs.sample(recipe, shaped=True)
    return found, Measured.of_sample(found.fidelity, recipe)
