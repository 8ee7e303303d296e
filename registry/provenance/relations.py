"""What was made from what: one query for each relation, which answers from either end by an index.

All that is asked of some things at once is one statement, whatever kinds they are of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, literal, literal_column, select, union_all
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.batches import batches
from .graph import COMPUTED_FROM, REGISTERED_FOR, TRAINED_ON

Key = tuple[str, int]
"""What tells a record from all others of its database: its table and its number."""

Link = tuple[Key, Key, str]
"""What was made, what it was made from, and the relation of the two."""

Asked = tuple[Key, bool]
"""A thing, and whether it is asked what it was made from: else what was made from it."""


@dataclass(frozen=True, slots=True)
class _Relation:
    """One way in which things are made from others.

    Attributes:
        pairs: a query for the number of what was made, of what it was made from, and what the relation is called.
        made: table of the one.
        source: table of the other.
        upwards: it is followed upwards only, since downwards another way leads there.
    """

    pairs: Select[*tuple[Any, ...]]
    made: Any
    source: Any
    upwards: bool = False

    def column(self, up: bool) -> Any:
        """Return the column with the number of what is asked about."""
        return self.pairs.selected_columns[0 if up else 1]


def _relations() -> Iterator[_Relation]:
    base, adapter, dataset = tables.BaseModel, tables.Adapter, tables.Dataset
    fused, extra, bundle, packed = tables.Fused, tables.FusedExtra, tables.Bundle, tables.BundleAdapter
    alias, runs, sources = tables.Alias, tables.Deployment, tables.AdapterSource

    # What the base that an adapter is registered for is to it: as a rule, the one that it was trained on.
    for_base = case((adapter.trained_on.is_(None), TRAINED_ON), else_=REGISTERED_FOR)
    yield _Relation(select(adapter.id, adapter.base_id, for_base), adapter, base)
    said = select(adapter.id, base.id, literal(TRAINED_ON)).join(base, base.digest == adapter.trained_on)
    yield _Relation(said, adapter, base)
    yield _plain(adapter.id, adapter.dataset_id, "trained-on-data", adapter, dataset)
    yield _plain(adapter.id, adapter.parent_id, "continued-from", adapter, adapter)
    yield _plain(sources.adapter_id, sources.source_id, COMPUTED_FROM, adapter, adapter)

    # A fused model is of bytes, alone or with others, under whichever name they are registered.
    part, twin = aliased(adapter), aliased(adapter)
    same = and_(twin.digest == part.digest, twin.base_id == fused.base_id)
    made = select(fused.id, twin.id, literal("fused-from-adapter"))
    first = made.join(part, part.id == fused.adapter_id)
    further = made.join(extra, extra.fused_id == fused.id).join(part, part.id == extra.adapter_id)
    yield _Relation(first.join(twin, same), fused, adapter)
    yield _Relation(further.join(twin, same), fused, adapter)
    onto = select(fused.id, fused.base_id, literal("fused-from-base"))
    yield _Relation(onto, fused, base, upwards=True)

    yield _plain(bundle.id, bundle.fused_id, "packed-from", bundle, fused)
    apart = select(packed.bundle_id, packed.adapter_id, literal("packed-from"))
    alone = apart.join(bundle, bundle.id == packed.bundle_id).where(bundle.fused_id.is_(None))
    yield _Relation(alone, bundle, adapter)
    yield _plain(alias.id, alias.adapter_id, "holds", alias, adapter)
    yield _plain(runs.id, runs.adapter_id, "runs", runs, adapter)
    yield _plain(runs.id, runs.fused_id, "runs", runs, fused)
    yield _plain(runs.id, runs.bundle_id, "runs", runs, bundle)


def _plain(made_id: Any, source_id: Any, name: str, made: Any, source: Any) -> _Relation:
    """Return a relation that a column has; where that is null, there is none."""
    return _Relation(select(made_id, source_id, literal(name)).where(source_id.is_not(None)), made, source)


_RELATIONS = tuple(_relations())


def links_of(session: Session, asked: Sequence[Asked], most: int | None) -> list[tuple[bool, Link]]:
    """Return what leads from some things to others, and which way it was asked for; what leads upwards comes first.

    Args:
        session: of any transaction.
        asked: the things.
        most: so many of each relation, the newest; None for all.
    """
    found: list[Row[*tuple[Any, ...]]] = []
    for chosen in batches(asked):
        numbers: dict[tuple[str, bool], list[int]] = defaultdict(list)
        for (table, number), up in chosen:
            numbers[table, up].append(number)
        ways = list(_ways(numbers, most))
        found += session.execute(union_all(*ways)).all() if ways else []
    newest = -1 if most is not None and len(found) > most else 1
    found.sort(key=lambda row: (row[0], newest * row[1], newest * row[2]))
    return [
        (way < len(_RELATIONS), ((of.made.__tablename__, made), (of.source.__tablename__, source), name))
        for way, made, source, name in found
        for of in (_RELATIONS[way % len(_RELATIONS)],)
    ]


def _ways(
    numbers: Mapping[tuple[str, bool], list[int]], most: int | None
) -> Iterator[Select[*tuple[Any, ...]]]:
    """Yield the queries that lead on from things, by their table and the direction: a number tells each, those that lead up first."""
    for up in (True, False):
        for position, relation in enumerate(_RELATIONS):
            table = (relation.made if up else relation.source).__tablename__
            if (relation.upwards and not up) or not (ids := numbers.get((table, up))):
                continue
            made, source, name = relation.pairs.selected_columns
            way: ColumnElement[int] = literal_column(str(position + (0 if up else len(_RELATIONS))))
            query = relation.pairs.with_only_columns(way.label("way"), made, source, name.label("name"))
            query = query.where(relation.column(up).in_(ids))
            if most is not None:
                newest = query.order_by(made.desc(), source.desc()).limit(most + 1).subquery()
                query = select(*newest.c)
            yield query


_FEW = 8
"""Adapters whose lines are followed at once: of more, PostgreSQL expects so much that it would rather read the whole table."""


def line_of(session: Session, asked: Sequence[Asked], most: int | None) -> list[Asked]:
    """Return the adapters that some adapters were continued from, or were continued from them, however far away.

    A line of a hundred versions is one statement so, not a hundred.  Of many adapters there is none: they are followed a
    generation at a time.
    """
    adapter = tables.Adapter
    ways = []
    for up in (True, False):
        ids = [
            number for (table, number), upwards in asked if upwards is up and table == adapter.__tablename__
        ]
        if not 0 < len(ids) <= _FEW:
            continue
        line = select(adapter.id, adapter.parent_id).where(adapter.id.in_(ids)).cte(recursive=True)
        onwards = adapter.id == line.c.parent_id if up else adapter.parent_id == line.c.id
        line = line.union(select(adapter.id, adapter.parent_id).where(onwards))
        reached = select(line.c.id, literal_column(str(int(up))).label("up"))
        ways.append(reached if most is None else select(*reached.limit(most + 1).subquery().c))
    if not ways:
        return []
    return [((adapter.__tablename__, number), bool(up)) for number, up in session.execute(union_all(*ways))]
