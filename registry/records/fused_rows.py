"""Queries for fused models, and their labels, which no two models of one adapter share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Select, select, union
from sqlalchemy.orm import Session, joinedload, selectinload

from fusery.storage.digest import digest_json

from .. import tables
from ..engine.recipe import ENGINE, OWN, Recipe
from ..engine.verdict import LEAST_GAIN, LEAST_PROMPTS, LOST, PASS, UNSURE, recorded_verdict
from ..wire import decode
from .fused import FusedAnswers, FusedLabel

ANSWERED = "fused.answered"
_DIGITS = 8  # of a digest: enough to distinguish the calibrations of a base, or choices of bits


def answers_in(
    entries: Sequence[tables.EventRow], adapter: tables.AdapterRow | None = None
) -> FusedAnswers | None:
    """Return what a fused model answered last, by its log entries: to prompts of any record of its adapter, or of one.

    None if it was not asked, or if somebody edited the entry.
    """
    for entry in reversed(entries):
        try:
            detail = json.loads(entry.detail)
            if adapter is None or detail["adapter"] == adapter.name:
                answers: FusedAnswers = decode(FusedAnswers, detail["answers"])
                return answers if answers.prompts >= 0 and 0 <= answers.agreement <= 1 else None
        except (ValueError, TypeError, LookupError):
            return None
    return None


def verdict_of(row: tables.FusedRow, answers: FusedAnswers | None) -> str:
    """Return the verdict of a record by its weights and its answers."""
    shaped = row.precision == "mixed" and bool(row.recipe.get("calibration"))
    return final_verdict(
        recorded_verdict(row.verdict, row.retained, row.noise, row.cosine, shaped=shaped), answers
    )


def final_verdict(weights: str, answers: FusedAnswers | None) -> str:
    """Combine both verdicts: answers to enough prompts count if the weights give UNSURE or LOST; LOST with PASS answers is UNSURE."""
    if weights == PASS or answers is None:
        return weights
    if answers.prompts < LEAST_PROMPTS or answers.gained < LEAST_GAIN:
        return weights
    return UNSURE if weights == LOST and answers.verdict == PASS else answers.verdict


def describe(recipe: Recipe) -> str:
    """Return how a fused artifact is written, in a few words; its adapters, weights and scale are `combined`'s."""
    return ", ".join(_words(recipe))


def combined(adapter: str, scale: float | None, extras: Sequence[tuple[str, float]]) -> str:
    """Return the adapters of a fused artifact with their weights, and a scale that is not the adapter's own."""
    own = "" if scale is None else f" (scale {_number(scale)})"
    return " + ".join([adapter + own, *(f"{_number(weight)} x {name}" for name, weight in extras)])


def label_of(row: tables.FusedRow) -> str:
    """Return what a fused artifact on record is called."""
    return label_record(row).label


def label_with_key(row: tables.FusedRow) -> str:
    """Return the same with the beginning of its key, which finds it."""
    return f"{label_of(row).removesuffix(')')}, {row.key[:12]})"


def label_record(row: tables.FusedRow, adapter: str | None = None) -> FusedLabel:
    """Return the names of a fused model, for its adapter under a name; another registry's claim is called foreign."""
    extras = [(extra.adapter.name, extra.weight) for extra in row.extras]
    made = names(adapter or row.adapter.name, Recipe.from_dict(row.recipe), extras)
    if row.origin is not None:
        return replace(made, label=f"{made.label.removesuffix(')')}, foreign)")
    return made


def names(adapter: str, recipe: Recipe, extras: Sequence[tuple[str, float]]) -> FusedLabel:
    """Return what `label_record` does, of what is not on record, or not loaded."""
    both, format = combined(adapter, recipe.scale, extras), describe(recipe)
    return FusedLabel(scale=recipe.scale, combined=both, format=format, label=f"{both} ({format})")


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
        numbers = sorted(set(recipe.bits.values()))
        wide = "/".join("own" if number == OWN else str(number) for number in numbers)
        if set(recipe.bits) == {""}:
            yield f"{wide} bits where adapted"
        else:
            yield f"{wide} bits by module ({digest_json(dict(recipe.bits))[:_DIGITS]})"
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


def _number(value: float) -> str:
    """Return the shortest text that gives the number back."""
    return repr(float(value)).removesuffix(".0")


def fused_from(session: Session, adapter: tables.AdapterRow) -> list[tables.FusedRow]:
    """Return what was fused from an adapter's bytes, alone or with others, under any of its names, oldest first."""
    return fused_by_adapter(session, [adapter])[adapter.id]


def load_fused() -> Select[tables.FusedRow]:
    """Return the query for fused models with all that their lines need, in a constant number of statements."""
    fused, base, files = tables.FusedRow, joinedload(tables.FusedRow.base), tables.ManifestRow.files
    return select(fused).options(
        joinedload(fused.adapter),
        joinedload(fused.manifest).selectinload(files),
        base.joinedload(tables.BaseModelRow.manifest).selectinload(files),
        base.selectinload(tables.BaseModelRow.names),
        selectinload(fused.extras).joinedload(tables.FusedExtraRow.adapter),
        selectinload(fused.answered),
    )


def fused_by_adapter(
    session: Session, adapters: Sequence[tables.AdapterRow]
) -> dict[int, list[tables.FusedRow]]:
    """Return what was fused from each adapter, by the number of its row; see `fused_from`."""
    twin, fused, extra = tables.AdapterRow, tables.FusedRow, tables.FusedExtraRow
    same = twin.digest.in_({adapter.digest for adapter in adapters})
    alone = select(twin.digest, twin.base_id, fused.id).join(fused, fused.adapter_id == twin.id).where(same)
    added = (
        select(twin.digest, twin.base_id, extra.fused_id).join(extra, extra.adapter_id == twin.id).where(same)
    )
    made = union(alone, added).subquery()
    query = load_fused().add_columns(made.c[0], made.c[1]).where(fused.id == made.c[2])
    # Onto its base model, or from a record on that base model onto another form of it.
    by_bytes: dict[tuple[str, int], dict[int, tables.FusedRow]] = defaultdict(dict)
    for row, digest, own_base in session.execute(query.order_by(fused.id)):
        for base in {own_base, row.base_id}:
            by_bytes[digest, base][row.id] = row
    return {adapter.id: [*by_bytes[adapter.digest, adapter.base_id].values()] for adapter in adapters}
