"""Yanks, and which records they concern; and the recipes of adapters that were computed from others.

A yank covers one adapter under its name: nothing is made from it any more.  Commands warn about adapters with the same bytes
or weights, fused models and bundles that contain them, and adapters computed from them, but not about continued training.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..adapters import PEFT_WEIGHTS, RECIPE, WEIGHTS, WHOLE
from ..database.engine import BATCH
from ..errors import BadInputError
from ..wire import decode
from .adapter import Relation, Withdrawal, Withdrawals
from .adapter_details import CombinationRecipe


def is_a_part() -> sa.ColumnElement[bool]:
    """Return the condition that a rendering is the factors alone of an adapter that has whole tensors too."""
    finding = tables.AdapterFindingRow
    return (
        sa.select(finding.id)
        .where(finding.adapter_id == tables.AdapterRenderingRow.adapter_id, finding.code == WHOLE)
        .exists()
    )


def same_weights(first: sa.Select[int]) -> sa.CTE:
    """Return the query for pairs of an adapter and each adapter with the same weights file, in either form, itself included."""
    adapter, rendering, file = tables.AdapterRow, tables.AdapterRenderingRow, tables.ManifestFileRow
    start = first.distinct().subquery().c[0]
    is_weights = file.path.in_((WEIGHTS, PEFT_WEIGHTS))
    stored = sa.select(start.label("adapter"), file.sha256).join(adapter, adapter.id == start)
    stored = stored.join(file, file.manifest_id == adapter.manifest_id).where(is_weights)
    rendered = sa.select(start, file.sha256).join(rendering, rendering.adapter_id == start)
    rendered = rendered.join(file, file.manifest_id == rendering.manifest_id)
    weights = sa.union(stored, rendered.where(is_weights, ~is_a_part())).cte("weights")
    # A function of the digest keeps SQLite from indexing `weights` and reading every file to look it up there.
    with_file = sa.select(weights.c.adapter).join(file, file.sha256 == sa.func.lower(weights.c.sha256))
    with_file = with_file.where(is_weights)
    storing = with_file.join(adapter, adapter.manifest_id == file.manifest_id)
    rendering_them = with_file.join(rendering, rendering.manifest_id == file.manifest_id).where(~is_a_part())
    twin = aliased(adapter)
    same_digest = sa.select(start, twin.id).join(adapter, adapter.id == start)
    return sa.union(
        storing.add_columns(adapter.id.label("other")),
        rendering_them.add_columns(rendering.adapter_id),
        same_digest.join(twin, twin.digest == adapter.digest),
    ).cte("same_weights")


def of_adapters(
    session: Session, ids: Collection[int], *, at: datetime | None = None
) -> dict[int, Withdrawals]:
    """Return the yanks that concern adapters, by the number of their row, their own first; those without are left out."""
    return _affected(session, ids, _themselves, at=at)


def of_fused(session: Session, ids: Collection[int]) -> dict[int, Withdrawals]:
    """Return the yanks of the adapters in fused models, or of other records with their bytes."""
    return _affected(session, ids, _parts, holding=True)


def of_bundles(session: Session, ids: Collection[int]) -> dict[int, Withdrawals]:
    """Return the yanks that concern the fused model or the adapters in bundles."""
    return _affected(session, ids, _packed, holding=True)


def of_adapter(session: Session, adapter: tables.AdapterRow) -> Withdrawals:
    """Return the yanks that concern an adapter."""
    return of_adapters(session, [adapter.id]).get(adapter.id, ())


Moment = datetime | sa.BindParameter[datetime] | None


def is_yanked(adapter_id: Any, at: Moment = None) -> sa.ColumnElement[bool]:
    """Return the condition that an adapter is yanked: now, or at a moment."""
    return sa.exists().where(tables.YankRow.adapter_id == adapter_id, stands_at(at))


def stands_at(at: Moment = None) -> sa.ColumnElement[bool]:
    """Return the condition that a withdrawal stands: now, or at a moment."""
    yank = tables.YankRow
    if at is None:
        return yank.lifted_at.is_(None)
    return sa.and_(yank.at <= at, sa.or_(stands_at(), yank.lifted_at > at))


def standing_yanks(session: Session, adapter: tables.AdapterRow) -> Sequence[tables.YankRow]:
    """Return the yanks of a record that stand; one of several may have come from another registry."""
    yank = tables.YankRow
    query = sa.select(yank).where(yank.adapter_id == adapter.id, stands_at())
    return session.scalars(query.order_by(yank.id)).all()


def standing_yank(session: Session, adapter: tables.AdapterRow) -> tables.YankRow | None:
    """Return the first of these; None without one."""
    return next(iter(standing_yanks(session, adapter)), None)


def refuse_yanked(session: Session, adapter: tables.AdapterRow) -> None:
    """Refuse to make anything of a record that is withdrawn."""
    yank = standing_yank(session, adapter)
    if yank is not None:
        raise BadInputError(f"{adapter.name} was yanked by {yank.by} on {yank.at:%Y-%m-%d}: {yank.reason}")


def usable_record(session: Session, adapter: tables.AdapterRow) -> tables.AdapterRow:
    """Return the record to make a fused model again with: the adapter, or one with its bytes that is not yanked."""
    twin = tables.AdapterRow
    query = sa.select(twin).where(
        twin.digest == adapter.digest, twin.base_id == adapter.base_id, ~is_yanked(twin.id)
    )
    usable_adapter = session.scalars(query.order_by(twin.id != adapter.id, twin.id).limit(1)).first()
    if usable_adapter is None:
        refuse_yanked(session, adapter)
    return usable_adapter or adapter


Where = Callable[[Any], sa.ColumnElement[bool]]  # from a number's column to whether it is asked about

Pairs = sa.Select[*tuple[Any, ...]]  # of a thing and an adapter that it is or holds


def _themselves(where: Where) -> Pairs:
    return sa.select(tables.AdapterRow.id, tables.AdapterRow.id).where(where(tables.AdapterRow.id))


def _parts(where: Where) -> Pairs:
    """Return the query for which adapters fused models hold: the first, and the further ones of a sum."""
    fused, extra = tables.FusedRow, tables.FusedExtraRow
    first = sa.select(fused.id, fused.adapter_id).where(where(fused.id))
    further = sa.select(extra.fused_id, extra.adapter_id).where(where(extra.fused_id))
    both = sa.union_all(first, further).subquery()
    return sa.select(both.c[0], both.c[1])


def _packed(where: Where) -> Pairs:
    """Return the query for which adapters bundles hold; of a sum, `BundleAdapter` has the first one only."""
    bundle, packed = tables.BundleRow, tables.BundleAdapterRow
    fused, extra = tables.FusedRow, tables.FusedExtraRow
    apart = sa.select(bundle.id, packed.adapter_id).join(packed, packed.bundle_id == bundle.id)
    first = sa.select(bundle.id, fused.adapter_id).join(fused, fused.id == bundle.fused_id)
    further = sa.select(bundle.id, extra.adapter_id).join(extra, extra.fused_id == bundle.fused_id)
    ways = (apart.where(bundle.fused_id.is_(None)), first, further)
    both = sa.union_all(*(way.where(where(bundle.id)) for way in ways)).subquery()
    return sa.select(both.c[0], both.c[1])


def _affected(
    session: Session,
    ids: Collection[int],
    parts_of: Callable[[Where], Pairs],
    *,
    holding: bool = False,
    at: datetime | None = None,
) -> dict[int, Withdrawals]:
    if not ids or session.scalar(_any(at is None), {"moment": at}) is None:
        return {}
    # Of many things, one looks from what is yanked, since that is little.
    many, wanted = len(ids) > BATCH, set(ids)
    withdrawals_by_id = defaultdict[int, dict[str, Withdrawal]](dict)
    given = {"moment": at} if many else {"moment": at, "ids": list(ids)}
    rows = session.execute(_query(parts_of, many=many, now=at is None), given)
    for number, computed, itself, same_bytes, name, reason, since, by in rows:
        if number not in wanted:
            continue
        relation: Relation
        if computed:
            relation = "computed-from"
        elif holding or not same_bytes:
            relation = "contains"
        else:
            relation = "itself" if itself else "same-bytes"
        withdrawals_by_id[number].setdefault(name, Withdrawal(name, relation, reason, since, by))
    return {
        number: tuple(sorted(by_name.values(), key=lambda withdrawal: withdrawal.relation != "itself"))
        for number, by_name in withdrawals_by_id.items()
    }


# Queries are made once: most of a question's time went into that.
_MOMENT: sa.BindParameter[datetime] = sa.bindparam("moment")


@cache
def _any(now: bool) -> sa.Select[int]:
    return sa.select(tables.YankRow.id).where(stands_at(None if now else _MOMENT)).limit(1)


@cache
def _query(parts_of: Callable[[Where], Pairs], *, many: bool, now: bool) -> Pairs:
    part, record, yank = aliased(tables.AdapterRow), aliased(tables.AdapterRow), tables.YankRow
    asked: sa.BindParameter[Sequence[int]] = sa.bindparam("ids", expanding=True)
    standing = stands_at(None if now else _MOMENT)
    held = parts_of(lambda column: sa.true() if many else column.in_(asked)).cte("held")
    thing, adapter = held.c
    if many:
        alike = same_weights(sa.select(yank.adapter_id).where(standing))
        part_id, record_id = alike.c.other, alike.c.adapter
        lines = source_pairs(sa.select(part_id), up=False)
    else:
        lines = source_pairs(sa.select(adapter), up=True)
        alike = same_weights(sa.select(lines.c.source))
        part_id, record_id = alike.c.adapter, alike.c.other
    relation = (lines.c.adapter != part.id, part.id == record.id, part.digest == record.digest)
    return (
        sa.select(thing, *relation, record.name, yank.reason, yank.at, yank.by)
        .join(lines, lines.c.adapter == adapter)
        .join(part, part.id == lines.c.source)
        .join(alike, part_id == part.id)
        .join(record, record.id == record_id)
        .join(yank, yank.adapter_id == record.id)
        .where(standing)
        .order_by(lines.c.adapter != part.id, yank.id)  # of each yank, the nearest relation counts
    )


SHRINK = "shrink"
_DIGEST = re.compile("[0-9a-f]{64}")
_MOST = 1000
_FIELDS = frozenset(field.name for field in fields(CombinationRecipe))


def recipe_in(config: Mapping[str, Any]) -> CombinationRecipe | None:
    """Return the recipe in a configuration; None without a valid one."""
    raw_recipe = config.get(RECIPE)
    if not isinstance(raw_recipe, Mapping) or set(raw_recipe) != _FIELDS:
        return None
    try:
        recipe: CombinationRecipe = decode(CombinationRecipe, raw_recipe)
    except ValueError:
        return None
    fits = (
        0 < len(recipe.sources) == len(recipe.weights) <= _MOST
        and all(map(_DIGEST.fullmatch, recipe.sources))
        and all(map(math.isfinite, (*recipe.weights, recipe.density or 0.0)))
        and all(0 <= number < 1 << 63 for number in (recipe.rank, recipe.seed or 0))
    )
    return recipe if fits else None


def recorded_sources(
    session: Session, recipe: CombinationRecipe, base_id: int
) -> list[tables.AdapterSourceRow]:
    """Return the rows for those of a recipe's sources that are on record, on the same base: the first with the bytes."""
    adapter = tables.AdapterRow
    query = sa.select(adapter.digest, adapter.id).where(adapter.digest.in_(recipe.sources))
    rows = session.execute(query.where(adapter.base_id == base_id).order_by(adapter.id.desc()))
    first = {row.digest: row.id for row in rows}
    return [
        tables.AdapterSourceRow(position=position, source_id=first[digest])
        for position, digest in enumerate(recipe.sources)
        if digest in first
    ]


def source_pairs(first: sa.Select[int], *, up: bool) -> sa.CTE:
    """Return the query for pairs of an adapter and each direct or indirect source of it, itself included."""
    start, step = first.distinct().subquery(), tables.AdapterSourceRow
    pairs = sa.select(start.c[0].label("adapter"), start.c[0].label("source")).cte("computed", recursive=True)
    if up:
        further = sa.select(pairs.c.adapter, step.source_id).join(step, step.adapter_id == pairs.c.source)
    else:
        further = sa.select(step.adapter_id, pairs.c.source).join(step, step.source_id == pairs.c.adapter)
    return pairs.union(further)


def inherited_dataset(session: Session, recipe: CombinationRecipe, sources: Sequence[int]) -> int | None:
    """Return the id of the dataset that all sources of a recipe were trained on; None if they differ or one is unknown."""
    adapter = tables.AdapterRow
    query = sa.select(adapter.dataset_id).where(adapter.id.in_(sources)).distinct()
    datasets = session.scalars(query).all()
    return datasets[0] if len(datasets) == 1 and len(sources) == len(recipe.sources) else None


def false_sources(adapter: tables.AdapterRow) -> bool:
    """Tell whether sources are on record that the recipe in the configuration does not have in their place."""
    recipe = recipe_in(adapter.training)
    digests: Sequence[str] = recipe.sources if recipe else ()
    return any(
        not 0 <= row.position < len(digests) or row.source.digest != digests[row.position]
        for row in adapter.sources
    )
