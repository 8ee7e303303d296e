"""Messages of a fuse: waiting for other processes, results of claims, refusals, and cautions about the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..engine.recipe import Recipe
from ..engine.verdict import PASS, closeness, range_in_words, share_in_words
from ..errors import DatabaseReadOnlyError, FidelityError, RebuildDiffersError
from ..records.fused import Fused
from ..records.fused_label import describe
from .fuse_inputs import FuseInputs
from .known import Measured
from .request import FuseRequest

if TYPE_CHECKING:
    from ..database.leases import Busy


def claim_in_words(registry: str, true: bool) -> str:
    """Return whether another registry's claim was true, in words."""
    if true:
        return f"what registry {registry[:8]} has under this key are the same bytes"
    return f"WARNING: what registry {registry[:8]} has under this key is FALSE: other bytes came out here, and ours count"


def waiting(busy: Busy) -> str:
    """Return who is building the model, in words."""
    who = busy.owner.description if busy.owner else "another process"
    return f"being fused by {who}, waiting"


def differing(key: str, made: str, recorded: str) -> RebuildDiffersError:
    """Return the error for a model whose digest differs from its record."""
    return RebuildDiffersError(
        f"rebuilding {key[:12]} gave other bytes than are recorded: {made[:12]}, recorded is {recorded[:12]}",
        hint="fusery audit",
    )


def lost(fuse_inputs: FuseInputs, recipe: Recipe, measured: Measured, request: FuseRequest) -> FidelityError:
    """Return the error for a model that would lose the adapter, with a hint."""
    name, least = describe(recipe), request.min_fidelity
    if least is not None and closeness(measured.retained) < least:
        message = (
            f"{name}: {share_in_words(measured.retained)}, --min-fidelity asks for {range_in_words(least)}"
        )
    else:
        message = f"{name} would lose the adapter: {measured.in_words}"
    larger = recipe.precision != "dequantize" and fuse_inputs.quantized
    if request.budget is not None:
        hint = "allow more: --budget 1.5x, or leave it out"
    elif fuse_inputs.aware is not None:
        # More bits are no nearer to what was trained.
        auto = recipe.quantization is not None or request.precision == "auto"
        hint = "--accept-loss publishes it" if auto else f"fusery fuse {fuse_inputs.adapter.name}"
    elif recipe.precision == "keep" and larger:
        hint = f"fusery fuse {fuse_inputs.adapter.name} --precision auto"
    else:
        hint = (
            f"fusery fuse {fuse_inputs.adapter.name} --precision dequantize"
            if larger
            else "--accept-loss publishes it"
        )
    return FidelityError(message, hint=hint)


def cautions(fused: Fused, request: FuseRequest) -> Iterator[str]:
    """Yield cautions about a fused model: a verdict that is not PASS, or a large size."""
    verdict = fused.fidelity.verdict
    scale = "" if fused.scale is None else f" --scale {fused.scale:g}"
    added = "".join(f" --with {part.adapter}:{part.weight:g}" for part in fused.with_)
    compare = f"fusery fidelity {fused.adapter}{scale}{added} --formats"
    if verdict != PASS:
        yield (
            f"{verdict}: expect most exact answers of base + adapter to change. "
            f"Compare the formats: {compare}"
        )
    if request.precision == "auto" and fused.precision == "dequantize" and fused.quantization is None:
        yield (
            f"16 bits take {fused.times_base:.2f} times the size of the base: `auto` found no smaller format that passes. "
            f"Compare the formats: {compare}"
        )


def unpublished(
    fuse_inputs: FuseInputs, recipe: Recipe, error: DatabaseReadOnlyError
) -> DatabaseReadOnlyError:
    """Return the error for a model that would have to be computed where nothing can be recorded."""
    name = fuse_inputs.adapter.name
    return DatabaseReadOnlyError(
        f"{name} ({describe(recipe)}) is not published, and to fuse it needs the right to write: {error.message}",
        hint=f"have somebody who may write run: fusery fuse {name} --publish full",
    )
