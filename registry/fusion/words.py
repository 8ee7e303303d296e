"""What a fuse says to people: who it waits for, what a claim turned out to be, and why it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.recipe import Recipe
from ..errors import DatabaseReadOnlyError, FidelityError, RebuildDiffersError
from ..records.fused_label import describe
from .ingredients import Ingredients
from .known import Measured
from .request import FuseRequest

if TYPE_CHECKING:
    from ..database.leases import Busy


def claim_in_words(registry: str, true: bool) -> str:
    """Return what came of a claim of another registry, now that the model was made here."""
    if true:
        return f"what registry {registry[:8]} has under this key are the same bytes"
    return f"WARNING: what registry {registry[:8]} has under this key is FALSE: other bytes came out here, and ours count"


def waiting(busy: Busy) -> str:
    """Return who makes the model at the moment."""
    who = busy.owner.description if busy.owner else "another process"
    return f"being fused by {who}, waiting"


def differing(key: str, made: str, recorded: str) -> RebuildDiffersError:
    """Return the refusal of a model that came out with another digest than is on record."""
    return RebuildDiffersError(
        f"rebuilding {key[:12]} gave other bytes than are recorded: {made[:12]}, recorded is {recorded[:12]}",
        hint="fusery audit",
    )


def lost(ingredients: Ingredients, recipe: Recipe, measured: Measured, request: FuseRequest) -> FidelityError:
    """Return the refusal of a model that would not hold what the adapter learned, with what may help."""
    share, name = f"{100 * (measured.retained or 0.0):.1f} %", describe(recipe)
    if request.min_fidelity is not None and (measured.retained or 0.0) < request.min_fidelity:
        message = f"{name} retains {share} of the update, and at least {request.min_fidelity} was asked for"
    else:
        message = f"{name} would lose the adapter: {measured.in_words}"
    larger = recipe.precision != "dequantize" and ingredients.quantized
    if request.budget is not None:
        hint = "allow more: --budget 1.5x, or leave it out"
    elif recipe.precision == "keep" and larger:
        hint = f"fusery fuse {ingredients.adapter.name} --precision auto"
    else:
        hint = (
            f"fusery fuse {ingredients.adapter.name} --precision dequantize"
            if larger
            else "--accept-loss publishes it"
        )
    return FidelityError(message, hint=hint)


def unpublished(
    ingredients: Ingredients, recipe: Recipe, error: DatabaseReadOnlyError
) -> DatabaseReadOnlyError:
    """Return the error that a model would have to be computed where nothing can be recorded."""
    name = ingredients.adapter.name
    return DatabaseReadOnlyError(
        f"{name} ({describe(recipe)}) is not published, and to fuse it needs the right to write: {error.message}",
        hint=f"have somebody who may write run: fusery fuse {name} --publish full",
    )
