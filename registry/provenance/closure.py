"""What was made from what: one query for each relation; and everything that is reached, however far away, as queries.

Kinds of things are made from one another in one order: an adapter from bases, datasets and adapters, a fused model from
adapters, a bundle from both, and aliases and deployments hold or run these.  So what is reached is one query for each kind,
and only adapters, which are made from adapters, take one that calls itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from .. import tables
from ..database.engine import batches
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
        pairs: a query for the number of what was made, of what it was made from, and the name of the relation.
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
    base, adapter, dataset = tables.BaseModelRow, tables.AdapterRow, tables.DatasetRow
    fused, extra, bundle, packed = (
        tables.FusedRow,
        tables.FusedExtraRow,
        tables.BundleRow,
        tables.BundleAdapterRow,
    )
    alias, runs, sources = tables.AliasRow, tables.DeploymentRow, tables.AdapterSourceRow

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
    on_its_base = or_(twin.base_id + 0 == fused.base_id + 0, twin.base_id + 0 == part.base_id + 0)
    same = and_(twin.digest == part.digest, on_its_base)
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
    """Return the links of things, upward ones first, and which way each was asked for.

    Args:
        most: so many of each relation, the newest; None for all.
        within: only links to one of these; they and the things are few enough for one statement.
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


ADAPTER = tables.AdapterRow.__tablename__
_KINDS = (
    tables.BaseModelRow,
    tables.DatasetRow,
    tables.AdapterRow,
    tables.FusedRow,
    tables.BundleRow,
    tables.AliasRow,
    tables.DeploymentRow,
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
    """Return the query for adapters and all that they were made from (`up`), or that was made from them.

    Args:
        roots: a query for the numbers of the first ones; with `deepest`, also how far away each is.
        deepest: so many steps away at most; the second column is how many.
    """
    reached = roots.cte("reached", recursive=True)
    adapter, source = aliased(tables.AdapterRow), aliased(tables.AdapterSourceRow)
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
    """Return the query for the numbers of all that is reached from some things, by kind; the things are in it."""
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
    """Return up to `limit` + 1 other adapters that are reached, the nearest first, then the newest."""
    adapter = tables.AdapterRow
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
