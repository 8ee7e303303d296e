"""What was made from what: one query for each relation, which answers from either end by an index.

All that is asked of some things at once is one statement, whatever kinds they are of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, literal, literal_column, select, union_all
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.batches import batches
from ..records.graph import COMPUTED_FROM, REGISTERED_FOR, TRAINED_ON

Key = tuple[str, int]
"""What tells a record from all others of its database: its table and its number."""

Link = tuple[Key, Key, str]
"""What was made, what it was made from, and the relation of the two."""

Asked = tuple[Key, bool]
"""A thing, and whether it is asked what it was made from: else what was made from it."""


FUSED_FROM = "fused-from-base"
"""The relation of a fused model to its base, which is followed upwards only."""


@dataclass(frozen=True, slots=True)
class Relation:
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

    def ends(self, up: bool) -> tuple[str, str]:
        """Return the table of what is asked about, and that of what it leads to."""
        names = self.made.__tablename__, self.source.__tablename__
        return names if up else names[::-1]


def _relations() -> Iterator[Relation]:
    base, adapter, dataset = tables.BaseModel, tables.Adapter, tables.Dataset
    fused, extra, bundle, packed = tables.Fused, tables.FusedExtra, tables.Bundle, tables.BundleAdapter
    alias, runs, sources = tables.Alias, tables.Deployment, tables.AdapterSource

    # What the base that an adapter is registered for is to it: as a rule, the one that it was trained on.
    for_base = case((adapter.trained_on.is_(None), TRAINED_ON), else_=REGISTERED_FOR)
    yield Relation(select(adapter.id, adapter.base_id, for_base), adapter, base)
    said = select(adapter.id, base.id, literal(TRAINED_ON)).join(base, base.digest == adapter.trained_on)
    yield Relation(said, adapter, base)
    yield _plain(adapter.id, adapter.dataset_id, "trained-on-data", adapter, dataset)
    yield _plain(adapter.id, adapter.parent_id, "continued-from", adapter, adapter)
    yield _plain(sources.adapter_id, sources.source_id, COMPUTED_FROM, adapter, adapter)

    # A fused model is of bytes, alone or with others, under whichever name they are registered.
    part, twin = aliased(adapter), aliased(adapter)
    # The sums keep SQLite from going through all that there is for a base, which looks like little to it.
    same = and_(twin.digest == part.digest, twin.base_id + 0 == fused.base_id + 0)
    made = select(fused.id, twin.id, literal("fused-from-adapter"))
    first = made.join(part, part.id == fused.adapter_id)
    further = made.join(extra, extra.fused_id == fused.id).join(part, part.id == extra.adapter_id)
    yield Relation(first.join(twin, same), fused, adapter)
    yield Relation(further.join(twin, same), fused, adapter)
    onto = select(fused.id, fused.base_id, literal(FUSED_FROM))
    yield Relation(onto, fused, base, upwards=True)

    yield _plain(bundle.id, bundle.fused_id, "packed-from", bundle, fused)
    apart = select(packed.bundle_id, packed.adapter_id, literal("packed-from"))
    # And here from going through all bundles.
    alone = apart.join(bundle, bundle.id == packed.bundle_id).where((bundle.fused_id + 0).is_(None))
    yield Relation(alone, bundle, adapter)
    yield _plain(alias.id, alias.adapter_id, "holds", alias, adapter)
    yield _plain(runs.id, runs.adapter_id, "runs", runs, adapter)
    yield _plain(runs.id, runs.fused_id, "runs", runs, fused)
    yield _plain(runs.id, runs.bundle_id, "runs", runs, bundle)


def _plain(made_id: Any, source_id: Any, name: str, made: Any, source: Any) -> Relation:
    """Return a relation that a column has; where that is null, there is none."""
    return Relation(select(made_id, source_id, literal(name)).where(source_id.is_not(None)), made, source)


RELATIONS = tuple(_relations())

Within = Mapping[bool, Collection[Key]]
"""What both ends of a link are to be among, where it was asked for upwards, and where downwards."""


def links_of(
    session: Session, asked: Sequence[Asked], most: int | None, *, within: Within | None = None
) -> list[tuple[bool, Link]]:
    """Return what leads from some things to others, and which way it was asked for; what leads upwards comes first.

    Args:
        session: of any transaction.
        asked: the things.
        most: so many of each relation, the newest; None for all.
        within: only what leads to one of these; they and the things are few enough for one statement.
    """
    found: list[Row[*tuple[Any, ...]]] = []
    ends = {up: _by_table(keys) for up, keys in within.items()} if within is not None else None
    for chosen in batches(asked, len(asked) or 1) if within is not None else batches(asked):
        numbers: dict[tuple[str, bool], list[int]] = defaultdict(list)
        for (table, number), up in chosen:
            numbers[table, up].append(number)
        ways = list(_ways(numbers, most, ends))
        found += session.execute(union_all(*ways)).all() if ways else []
    newest = -1 if most is not None and len(found) > most else 1
    found.sort(key=lambda row: (row[0], newest * row[1], newest * row[2]))
    return [
        (way < len(RELATIONS), ((of.made.__tablename__, made), (of.source.__tablename__, source), name))
        for way, made, source, name in found
        for of in (RELATIONS[way % len(RELATIONS)],)
    ]


def _by_table(keys: Iterable[Key]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for table, number in keys:
        found[table].append(number)
    return found


def _ways(
    numbers: Mapping[tuple[str, bool], list[int]],
    most: int | None,
    within: Mapping[bool, Mapping[str, list[int]]] | None,
) -> Iterator[Select[*tuple[Any, ...]]]:
    """Yield the queries that lead on from things, by their table and the direction: a number tells each, those that lead up first."""
    for up in (True, False):
        for position, relation in enumerate(RELATIONS):
            table, other = relation.ends(up)
            if (relation.upwards and not up) or not (ids := numbers.get((table, up))):
                continue
            if within is not None and not within[up].get(other):
                continue
            made, source, name = relation.pairs.selected_columns
            way: ColumnElement[int] = literal_column(str(position + (0 if up else len(RELATIONS))))
            query = relation.pairs.with_only_columns(way.label("way"), made, source, name.label("name"))
            query = query.where(relation.column(up).in_(ids))
            if within is not None:
                query = query.where(relation.column(not up).in_(within[up][other]))
            if most is not None:
                newest = query.order_by(made.desc(), source.desc()).limit(most + 1).subquery()
                query = select(*newest.c)
            yield query
