"""What a fused artifact is called: its adapters with their weights, and how it is written.

No two artifacts of one adapter have the same label: whatever of a recipe tells two of them apart is in it, and what is as
usual is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fusery.storage.digest import digest_json

from ..engine.recipe import ENGINE, OWN, Recipe
from .fused import FusedLabel

if TYPE_CHECKING:
    from .. import tables

_DIGITS = 8
"""Of a digest: enough to tell the calibrations of a base, or the choices of bits, from one another."""


def describe(recipe: Recipe) -> str:
    """Return how a fused artifact is written, in a few words; its adapters, weights and scale are `combined`'s."""
    return ", ".join(_words(recipe))


def combined(adapter: str, scale: float | None, extras: Sequence[tuple[str, float]]) -> str:
    """Return the adapters of a fused artifact with their weights, and a scale that is not the adapter's own.

    Args:
        adapter: the first one's name.
        scale: instead of its own; None for its own.
        extras: names and weights of those that are added.
    """
    own = "" if scale is None else f" (scale {_number(scale)})"
    return " + ".join([adapter + own, *(f"{_number(weight)} x {name}" for name, weight in extras)])


def label(adapter: str, recipe: Recipe, extras: Sequence[tuple[str, float]]) -> str:
    """Return what a fused artifact is called."""
    return f"{combined(adapter, recipe.scale, extras)} ({describe(recipe)})"


def label_of(row: tables.Fused) -> str:
    """Return what a fused artifact on record is called."""
    return label_record(row).label


def label_with_key(row: tables.Fused) -> str:
    """Return the same with the beginning of its key, which finds it."""
    return f"{label_of(row).removesuffix(')')}, {row.key[:12]})"


def label_by_key(row: tables.Fused) -> str:
    """Return what an artifact is called by its columns and its key alone: its recipe may be none."""
    extras = [(extra.adapter.name, extra.weight) for extra in row.extras]
    return f"{combined(row.adapter.name, None, extras)} ({row.precision}, {row.key[:12]})"


def label_record(row: tables.Fused, adapter: str | None = None) -> FusedLabel:
    """Return what views say of the name of a fused artifact: `scale`, `combined`, `format` and `label`.

    Another registry's claim is called foreign: one's own of the same recipe is another thing.

    Args:
        row: the record.
        adapter: the name to call its adapter by; the same bytes may be registered under several.
    """
    extras = [(extra.adapter.name, extra.weight) for extra in row.extras]
    made = names(adapter or row.adapter.name, Recipe.from_dict(row.recipe), extras)
    if row.origin is not None:
        return replace(made, label=f"{made.label.removesuffix(')')}, foreign)")
    return made


def names(adapter: str, recipe: Recipe, extras: Sequence[tuple[str, float]]) -> FusedLabel:
    """Return what `label_record` does, of what is not on record, or not loaded."""
    return FusedLabel(
        scale=recipe.scale,
        combined=combined(adapter, recipe.scale, extras),
        format=describe(recipe),
        label=label(adapter, recipe, extras),
    )


def _words(recipe: Recipe) -> Iterator[str]:
    if (shape := recipe.quantization) is not None:
        if recipe.precision != "dequantize":
            yield recipe.precision
        yield f"requantised to {shape.get('bits')} bits"
        yield f"{shape.get('mode')}"
        yield f"groups of {shape.get('group_size')}"
    else:
        yield recipe.precision
    if recipe.aware is not None:
        yield f"trained through {recipe.aware.get('bits')} bits in groups of {recipe.aware.get('group_size')}"
    if recipe.biases:
        yield "in the biases"
    if recipe.bits:
        yield _bits(recipe.bits)
    if recipe.rounding is not None:
        yield f"rounded {recipe.rounding}"
    if recipe.seed:
        yield f"seed {recipe.seed}"
    if recipe.calibration is not None:
        yield f"calibration {recipe.calibration[:_DIGITS]}"
    if recipe.fitted:
        yield "fitted"
    if recipe.engine != ENGINE:
        yield f"by {recipe.engine.removeprefix(f'{ENGINE}; ')}"


def _bits(bits: Mapping[str, int]) -> str:
    wide = "/".join("own" if number == OWN else str(number) for number in sorted(set(bits.values())))
    if set(bits) == {""}:
        return f"{wide} bits where adapted"
    return f"{wide} bits by module ({digest_json(dict(bits))[:_DIGITS]})"


def _number(value: float) -> str:
    """Return the shortest text that gives the number back."""
    return repr(float(value)).removesuffix(".0")
