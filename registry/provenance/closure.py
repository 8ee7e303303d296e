"""All that things were made from, or that was made from them, however far away: as queries, in the database.

Kinds of things are made from one another in one order: an adapter from bases, datasets and adapters, a fused model from
adapters, a bundle from both, and aliases and deployments hold or run these.  So what is reached is one query for each kind,
and only adapters, which are made from adapters, take one that calls itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CTE, Select, func, literal, select, true, union, union_all
from sqlalchemy.orm import Session, aliased

from .. import tables
from .relations import RELATIONS, Key, Relation

ADAPTER = tables.Adapter.__tablename__
_KINDS = (
    tables.BaseModel,
    tables.Dataset,
    tables.Adapter,
    tables.Fused,
    tables.Bundle,
    tables.Alias,
    tables.Deployment,
)
_TABLES: Mapping[str, Any] = {kind.__tablename__: kind for kind in _KINDS}

DOWN = tuple(_TABLES)
"""Kinds, each after those that it is made from."""

UP = DOWN[::-1]
"""Kinds, each after those that are made from it."""

MANY = 5_000
"""Of more adapters than this, what holds them is found by reading through what there is."""


def adapters_from(
    session: Session, roots: Select[*tuple[Any, ...]], *, up: bool = False, deepest: int | None = None
) -> CTE:
    """Return the query for adapters and all that they were continued or computed from, or that was so made from them.

    Args:
        session: its database has a way of its own to follow two relations in one query.
        roots: a query for the numbers of the first ones; with `deepest`, also how far away each is.
        up: what they were made from.
        deepest: so many steps away at most; the second column is how many.
    """
    reached = roots.cte("reached", recursive=True)
    adapter, source = aliased(tables.Adapter), aliased(tables.AdapterSource)
    pairs = ((adapter.parent_id, adapter.id), (source.source_id, source.adapter_id))
    further: list[Any] = [] if deepest is None else [reached.c[1] + 1]
    near = true() if deepest is None else reached.c[1] < deepest
    steps = [(made, origin) if up else (origin, made) for origin, made in pairs]
    if session.get_bind().dialect.name == "sqlite":
        # It takes several queries that call themselves, and follows no union within one by its indexes.
        return reached.union(
            *(
                select(there, *further).join(reached, here == reached.c[0]).where(there.is_not(None), near)
                for here, there in steps
            )
        )
    # PostgreSQL takes one, and would rather read the whole table than look things up, if it were not for LATERAL.
    beside = union_all(
        *(
            select(there.label("id")).where(here == reached.c[0], there.is_not(None)).correlate(reached)
            for here, there in steps
        )
    ).lateral()
    return reached.union(select(beside.c.id, *further).select_from(reached).join(beside, true()).where(near))


def closure(session: Session, starts: Sequence[Key], *, up: bool, many: bool) -> dict[str, CTE]:
    """Return the query for the numbers of all that is reached from some things, by kind; the things are in it.

    Args:
        session: of any transaction.
        starts: the things.
        up: what they were made from.
        many: many adapters are reached: what holds them is found by reading through what there is.
    """
    found: dict[str, CTE] = {}
    for kind in UP if up else DOWN:
        table = _TABLES[kind]
        numbers = [number for name, number in starts if name == kind]
        ways: list[Select[int]] = [select(table.id).where(table.id.in_(numbers))] if numbers else []
        ways += [_met(each, up, found, many) for each in RELATIONS if _leads(each, up, kind, found)]
        if not ways:
            continue
        if kind == ADAPTER:
            each = union(*ways).subquery()
            found[kind] = adapters_from(session, select(each.c[0].label("id")), up=up)
        else:
            found[kind] = _both(ways).cte(f"all_{kind}")
    return found


def _leads(relation: Relation, up: bool, kind: str, found: Mapping[str, CTE]) -> bool:
    """Tell whether a relation leads to a kind of things from those that are known."""
    here, there = relation.ends(up)
    return there == kind and here in found and here != there and (up or not relation.upwards)


def _met(relation: Relation, up: bool, found: Mapping[str, CTE], many: bool) -> Select[int]:
    here, there = relation.ends(up)
    column, known = relation.column(up), select(found[here].c[0])
    # No index has a sum: of very many numbers SQLite would look each up, and that for every row of another table.
    held = (column + 0 if many and there != ADAPTER else column).in_(known)
    return relation.pairs.with_only_columns(relation.column(not up).label("id")).where(held)


def _both(ways: Sequence[Select[int]]) -> Select[int]:
    """Return the query for what any of some queries finds, each once; so said, SQLite makes it once for all who use it."""
    each = union(*ways).subquery() if len(ways) > 1 else ways[0].subquery()
    return select(each.c[0].label("id")).distinct()


def counts(session: Session, starts: Sequence[Key], *, up: bool, many: bool) -> dict[str, int]:
    """Return how many things of each kind are reached from some, these among them; in one statement, as `closure` makes it."""
    found = closure(session, starts, up=up, many=many)
    each = [
        select(literal(kind).label("kind"), func.count().label("n")).select_from(all_of)
        for kind, all_of in found.items()
    ]
    return {row[0]: row[1] for row in session.execute(union_all(*each))} if each else {}


def numbers(session: Session, starts: Sequence[Key], *, up: bool) -> dict[str, set[int]]:
    """Return the numbers of all that is reached from some things, these among them; adapters first, then what holds them."""
    reached: dict[str, set[int]] = {}
    for wanted in (True, False):
        found = closure(session, starts, up=up, many=len(reached.get(ADAPTER, ())) > MANY)
        each = [
            select(literal(kind).label("kind"), all_of.c[0].label("id"))
            for kind, all_of in found.items()
            if (kind == ADAPTER) == wanted
        ]
        for kind, number in session.execute(union_all(*each)) if each else ():
            reached.setdefault(kind, set()).add(number)
    return reached


def nearest_adapters(session: Session, starts: Sequence[Key], *, up: bool, limit: int) -> list[int]:
    """Return adapters that are reached from some things, the nearest first and the newest of what is as near.

    Args:
        session: of any transaction.
        starts: the things; those that are adapters are not among what is returned.
        up: what they were made from.
        limit: so many; one more where there are more.
    """
    adapter = tables.Adapter
    own = [number for kind, number in starts if kind == ADAPTER]
    ways: list[Select[*tuple[Any, ...]]] = []
    if own:
        ways.append(select(adapter.id, literal(0)).where(adapter.id.in_(own)))
    for relation in () if up else RELATIONS:
        here, there = relation.ends(up)
        on = [number for kind, number in starts if kind == here]
        if there == ADAPTER and here != there and on:
            met, column = relation.column(True), relation.column(False)
            query = relation.pairs.with_only_columns(met.label("id")).where(column.in_(on))
            newest = query.order_by(met.desc()).limit(limit + 1).subquery()
            ways.append(select(newest.c.id, literal(1)))
    if not ways:
        return []
    first = union_all(*ways).subquery()
    roots = select(first.c[0].label("id"), first.c[1].label("depth"))
    line = adapters_from(session, roots, up=up, deepest=limit + 1)
    depth = func.min(line.c[1])
    query = select(line.c[0]).group_by(line.c[0]).order_by(depth, line.c[0].desc())
    if own:
        query = query.where(line.c[0].not_in(own))
    return list(session.scalars(query.limit(limit + 1)))
