"""How an adapter was computed from others: a recipe, which is part of its configuration and so of its digest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import CTE, Select, select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters.files import RECIPE
from .combination import CombinationRecipe

SHRINK = "shrink"
"""The method of what was only cut to a smaller rank."""

_DIGEST = re.compile("[0-9a-f]{64}")
_MOST = 1000


_FIELDS = tuple(each.name for each in fields(CombinationRecipe))


def recipe_in(config: Mapping[str, Any]) -> CombinationRecipe | None:
    """Return the recipe in a configuration; None where there is none, or something else under its key."""
    found = config.get(RECIPE)
    if not isinstance(found, Mapping) or set(found) != set(_FIELDS):
        return None
    method, sources, weights, density, seed, rank, version = (found[name] for name in _FIELDS)
    if not (isinstance(method, str) and isinstance(version, str) and _is_whole(rank)):
        return None
    if not (_is_list(sources, _is_digest) and _is_list(weights, _is_number) and len(sources) == len(weights)):
        return None
    if not ((density is None or _is_number(density)) and (seed is None or _is_whole(seed))):
        return None
    return CombinationRecipe(
        method=method,
        sources=tuple(sources),
        weights=tuple(map(float, weights)),
        density=None if density is None else float(density),
        seed=seed,
        rank=rank,
        fusery=version,
    )


def known_sources(session: Session, recipe: CombinationRecipe, base_id: int) -> list[tables.AdapterSource]:
    """Return the rows for those of a recipe's sources that are on record, on the same base: the first with the bytes."""
    adapter = tables.Adapter
    query = select(adapter.digest, adapter.id).where(
        adapter.digest.in_(recipe.sources), adapter.base_id == base_id
    )
    first: dict[str, int] = {}
    for digest, number in session.execute(query.order_by(adapter.id)):
        first.setdefault(digest, number)
    return [
        tables.AdapterSource(position=position, source_id=first[digest])
        for position, digest in enumerate(recipe.sources)
        if digest in first
    ]


def source_pairs(first: Select[int], *, up: bool) -> CTE:
    """Return the query for pairs of an adapter and each direct or indirect source of it, itself included.

    Args:
        first: the query for the ids of the adapters to start from.
        up: start from computed adapters and find their sources; otherwise the reverse.
    """
    start, step = first.distinct().subquery(), tables.AdapterSource
    pairs = select(start.c[0].label("adapter"), start.c[0].label("source")).cte("computed", recursive=True)
    if up:
        further = select(pairs.c.adapter, step.source_id).join(step, step.adapter_id == pairs.c.source)
    else:
        further = select(step.adapter_id, pairs.c.source).join(step, step.source_id == pairs.c.adapter)
    return pairs.union(further)


def inherited_dataset(session: Session, recipe: CombinationRecipe, sources: Sequence[int]) -> int | None:
    """Return the id of the dataset that all sources of a recipe were trained on; None if they differ or one is unknown."""
    adapter = tables.Adapter
    query = select(adapter.dataset_id).where(adapter.id.in_(sources)).distinct()
    datasets = session.scalars(query).all()
    return datasets[0] if len(datasets) == 1 and len(sources) == len(recipe.sources) else None


def false_sources(adapter: tables.Adapter) -> bool:
    """Tell whether sources are on record that the recipe in the configuration does not have in their place."""
    recipe = recipe_in(adapter.training)
    digests: Sequence[str] = recipe.sources if recipe else ()
    return any(
        not 0 <= row.position < len(digests) or row.source.digest != digests[row.position]
        for row in adapter.sources
    )


def _is_list(value: object, fits: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MOST and all(map(fits, value))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
