"""Lineage: the relations between records, graphs of what is reached through them, cut or complete, and the nodes of records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, case, func, literal, literal_column, or_, select, union_all
from sqlalchemy.orm import Session, aliased, defer, joinedload, lazyload, load_only, selectinload
from sqlalchemy.orm.interfaces import ORMOption
from sqlalchemy.sql.selectable import CompoundSelect

from fusery.storage.digest import digest_bytes, digest_json

from .. import tables
from ..database.engine import batches
from ..records.adapter import Withdrawals
from ..records.fused_rows import label_of
from ..records.graph import COMPUTED_FROM, REGISTERED_FOR, TRAINED_ON, DeploymentNode, Edge, Graph, Node
from ..records.references import find_things
from ..records.withdrawals import of_adapters, of_bundles, of_fused
from ..workspace.workspace import Workspace

Made = (
    tables.BaseModelRow
    | tables.DatasetRow
    | tables.AdapterRow
    | tables.FusedRow
    | tables.BundleRow
    | tables.AliasRow
    | tables.DeploymentRow
)


def key_of(thing: Made) -> Key:
    """Return what tells a record from all others of its database."""
    return thing.__tablename__, thing.id


_BASE, _DATASET, _ADAPTER = tables.BaseModelRow, tables.DatasetRow, tables.AdapterRow
_FUSED, _EXTRA, _BUNDLE = tables.FusedRow, tables.FusedExtraRow, tables.BundleRow
_ALIAS, _DEPLOYMENT = tables.AliasRow, tables.DeploymentRow
_OPTIONS: Mapping[Any, Sequence[ORMOption]] = {  # for the related rows that are loaded with records, by kind
    _BASE: (joinedload(_BASE.names), defer(_BASE.weights), defer(_BASE.config)),
    _DATASET: (),
    _ADAPTER: (
        load_only(_ADAPTER.name, _ADAPTER.digest, _ADAPTER.created_at, _ADAPTER.created_by),
        lazyload("*"),
    ),
    _FUSED: (
        joinedload(_FUSED.adapter).load_only(_ADAPTER.name),
        selectinload(_FUSED.extras).joinedload(_EXTRA.adapter).load_only(_ADAPTER.name),
    ),
    _BUNDLE: (),
    _ALIAS: (joinedload(_ALIAS.task), joinedload(_ALIAS.adapter).load_only(_ADAPTER.digest)),
    _DEPLOYMENT: (
        joinedload(_DEPLOYMENT.adapter).load_only(_ADAPTER.digest),
        joinedload(_DEPLOYMENT.fused).load_only(_FUSED.digest),
        joinedload(_DEPLOYMENT.bundle).load_only(_BUNDLE.digest),
    ),
}
DOWN = tuple(kind.__tablename__ for kind in _OPTIONS)  # kinds, each after those that it is made from


def nodes_of(session: Session, keys: Iterable[Key]) -> dict[Key, Node]:
    """Return the nodes of records, by `key_of`; in a few queries for each few hundred of them."""
    wanted = dict.fromkeys(keys)
    nodes: dict[Key, Node] = {}
    for kind, options in _OPTIONS.items():
        numbers = (number for table, number in wanted if table == kind.__tablename__)
        for chosen in batches(numbers):
            query = select(kind).where(kind.id.in_(chosen)).options(*options)
            rows: list[Made] = list(session.scalars(query).unique())
            withdrawals = _withdrawals(session, rows)
            moves: dict[int, tables.AliasMoveRow] = {}
            if kind is _ALIAS:
                move = tables.AliasMoveRow
                last = select(func.max(move.id)).where(move.alias_id.in_(chosen)).group_by(move.alias_id)
                moves = {row.alias_id: row for row in session.scalars(select(move).where(move.id.in_(last)))}
            nodes |= {key_of(row): _node(row, withdrawals, moves.get(row.id)) for row in rows}
    return {key: nodes[key] for key in wanted}


def _held(row: Made) -> Made | None:
    if isinstance(row, _DEPLOYMENT):
        return row.bundle or row.fused or row.adapter
    return row.adapter if isinstance(row, _ALIAS) else row


def _withdrawals(session: Session, rows: Sequence[Made]) -> dict[Key, Withdrawals]:
    held = _by_kind(key_of(thing) for row in rows if (thing := _held(row)) is not None)
    return {
        (table.__tablename__, number): withdrawals
        for table, find in ((_ADAPTER, of_adapters), (_FUSED, of_fused), (_BUNDLE, of_bundles))
        for number, withdrawals in find(session, held[table.__tablename__]).items()
    }


def _node(row: Made, withdrawals: Mapping[Key, Withdrawals], move: tables.AliasMoveRow | None) -> Node:
    """Return the node of a record; the same thing has the same id in every registry."""
    held = _held(row)
    own_withdrawals = withdrawals.get(key_of(held), ()) if held is not None else ()
    digest = held.digest if held is not None and not isinstance(held, _ALIAS | _DEPLOYMENT) else ""
    if isinstance(row, _DATASET):
        identity = digest_json([row.name, row.revision, row.digest])[:16]
        return Node(f"dataset:{identity}", "dataset", row.name, digest)
    if isinstance(row, _DEPLOYMENT):
        identity = digest_json([row.place, row.at.isoformat(), digest])[:16]
        facts = row.place, digest, own_withdrawals, row.at, row.by
        return DeploymentNode(f"deployment:{identity}", "deployment", *facts, ended_at=row.ended_at)
    if isinstance(row, _ALIAS):
        at, by = (move.at, move.by) if move is not None else (None, None)
        name = f"{row.task.name}#{row.name}"
        return Node(f"alias:{name}", "alias", name, digest, own_withdrawals, at, by)
    if isinstance(row, _ADAPTER):
        kind, identity, name = "adapter", row.name, row.name
    elif isinstance(row, _BASE):
        kind, identity, name = "base", digest[:16], row.name
    elif isinstance(row, _FUSED):
        kind, identity, name = "fused", row.key[:16], label_of(row)
    else:
        place = digest_bytes(row.path.encode())[:8]
        kind, identity, name = "bundle", f"{digest[:16]}:{place}", f"{row.target} {row.path}"
    return Node(f"{kind}:{identity}", kind, name, digest, own_withdrawals, row.created_at, row.created_by)


Key = tuple[str, int]  # the table and the number of a record
Link = tuple[Key, Key, str]  # a made record, what it was made from, and the relation of the two
FUSED_FROM = "fused-from-base"  # the relation of a fused model to its base, which is followed upwards only


@dataclass(frozen=True, slots=True)
class Relation:
    """One way in which things are made from others."""

    pairs: Select[*tuple[Any, ...]]  # the numbers of what was made and of its origin, and the relation's name
    ends: tuple[str, str]  # their tables
    upwards: bool = False  # it is followed upwards only

    def step(self, up: bool) -> tuple[tuple[str, Any], tuple[str, Any]]:
        """Return the tables and columns of what is asked about, and of what it leads to."""
        made, source = zip(self.ends, self.pairs.selected_columns, strict=False)
        return (made, source) if up else (source, made)


def _relations() -> Iterator[Relation]:
    base, adapter, dataset = tables.BaseModelRow, tables.AdapterRow, tables.DatasetRow
    fused, extra, bundle = tables.FusedRow, tables.FusedExtraRow, tables.BundleRow
    packed, sources = tables.BundleAdapterRow, tables.AdapterSourceRow
    alias, runs = tables.AliasRow, tables.DeploymentRow

    def relation(
        pairs: Select[*tuple[Any, ...]], made: Any, source: Any, *, upwards: bool = False
    ) -> Relation:
        return Relation(pairs, (made.__tablename__, source.__tablename__), upwards)

    def plain(made_id: Any, source_id: Any, name: str, made: Any, source: Any) -> Relation:
        pairs = select(made_id, source_id, literal(name)).where(source_id.is_not(None))
        return relation(pairs, made, source)

    # As a rule, an adapter was trained on the base that it is registered for.
    for_base = case((adapter.trained_on.is_(None), TRAINED_ON), else_=REGISTERED_FOR)
    yield relation(select(adapter.id, adapter.base_id, for_base), adapter, base)
    declared = select(adapter.id, base.id, literal(TRAINED_ON)).join(base, base.digest == adapter.trained_on)
    yield relation(declared, adapter, base)
    yield plain(adapter.id, adapter.dataset_id, "trained-on-data", adapter, dataset)
    yield plain(adapter.id, adapter.parent_id, "continued-from", adapter, adapter)
    yield plain(sources.adapter_id, sources.source_id, COMPUTED_FROM, adapter, adapter)

    # A fused model is of bytes, alone or with others, under whichever name they are registered.
    part, twin = aliased(adapter), aliased(adapter)
    # The sums keep SQLite from going through all that there is for a base, which looks like little to it.
    on_its_base = or_(twin.base_id + 0 == fused.base_id + 0, twin.base_id + 0 == part.base_id + 0)
    same = and_(twin.digest == part.digest, on_its_base)
    made = select(fused.id, twin.id, literal("fused-from-adapter"))
    first = made.join(part, part.id == fused.adapter_id)
    further = made.join(extra, extra.fused_id == fused.id).join(part, part.id == extra.adapter_id)
    yield relation(first.join(twin, same), fused, adapter)
    yield relation(further.join(twin, same), fused, adapter)
    yield relation(select(fused.id, fused.base_id, literal(FUSED_FROM)), fused, base, upwards=True)

    yield plain(bundle.id, bundle.fused_id, "packed-from", bundle, fused)
    apart = select(packed.bundle_id, packed.adapter_id, literal("packed-from"))
    # And here from going through all bundles.
    alone = apart.join(bundle, bundle.id == packed.bundle_id).where((bundle.fused_id + 0).is_(None))
    yield relation(alone, bundle, adapter)
    yield plain(alias.id, alias.adapter_id, "holds", alias, adapter)
    yield plain(runs.id, runs.adapter_id, "runs", runs, adapter)
    yield plain(runs.id, runs.fused_id, "runs", runs, fused)
    yield plain(runs.id, runs.bundle_id, "runs", runs, bundle)


RELATIONS = tuple(_relations())


def walk(
    session: Session, starts: Sequence[Key], *, up: bool, limit: int | None = None
) -> tuple[dict[Key, None], bool]:
    """Return what was made from records, or with `up` what they were made from, nearest first, and whether that was cut."""
    reached, left, cut = dict.fromkeys(starts), dict[str, int](), False
    near = list(reached)
    while near:
        further: dict[str, set[int]] = defaultdict(set)
        for chosen in batches(near):
            most = None if limit is None else limit + len(reached) + 1
            for kind, number in _next(session, chosen, up, most):
                if (kind, number) not in reached:
                    further[kind].add(number)
        near = []
        for kind in sorted(DOWN, key=lambda kind: kind != _ADAPTER.__tablename__):
            kind_numbers = further[kind]
            room = len(kind_numbers) if limit is None else left.setdefault(kind, limit)
            near += [(kind, number) for number in sorted(kind_numbers, reverse=True)[:room]]
            cut |= len(kind_numbers) > room
            left[kind] = room - min(room, len(kind_numbers))
        reached |= dict.fromkeys(near)
    return reached, cut


def _next(session: Session, keys: Sequence[Key], up: bool, most: int | None) -> Iterator[Key]:
    numbers = _by_kind(keys)
    query = _next_query(frozenset(numbers), up, cut=most is not None)
    for way, number in session.execute(query, {**numbers, "most": most}) if query is not None else ():
        yield RELATIONS[way].ends[up], number


@cache  # most of the time of a long walk went into making queries
def _next_query(kinds: frozenset[str], up: bool, *, cut: bool) -> CompoundSelect[Any] | None:
    """Return the query for where relations lead from records of some kinds; None without such relations."""
    ways: list[Select[Any]] = []
    for position, relation in enumerate(RELATIONS):
        (kind, column), (_, other) = relation.step(up)
        if kind in kinds and (up or not relation.upwards):
            number: Any = literal_column(str(position)).label("way")
            query = relation.pairs.with_only_columns(number, other.label("id"))
            asked = query.where(column.in_(bindparam(kind, expanding=True)))
            newest = asked.distinct().order_by(other.desc()).limit(bindparam("most") if cut else None)
            ways.append(select(*newest.subquery().c))
    return union_all(*ways) if ways else None


def links_of(session: Session, keys: Iterable[Key]) -> Iterator[Link]:
    """Yield what records were made from."""
    for chosen in batches(keys):
        numbers = _by_kind(chosen)
        ways = [
            relation.pairs.add_columns(literal_column(str(position))).where(column.in_(numbers[kind]))
            for position, relation in enumerate(RELATIONS)
            for (kind, column), _ in [relation.step(True)]
            if kind in numbers
        ]
        rows = session.execute(union_all(*ways)).all() if ways else []
        for made, source, name, way in sorted(rows, key=lambda row: (row[3], row[0], row[1])):
            kind, other = RELATIONS[way].ends
            yield (kind, made), (other, source), name


def _by_kind(keys: Iterable[Key]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for kind, number in keys:
        numbers[kind].append(number)
    return numbers


LIMIT = 100  # descendants of a kind in a graph that is not complete
ANCESTORS = 1_000  # ancestors of a kind, there: a line of versions is rarely that long


def trace(
    workspace: Workspace,
    reference: str,
    *,
    up: bool = True,
    down: bool = True,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
) -> Graph:
    """Return what a record was made from (`up`), and what was made from it and where it went (`down`).

    `limit` is the number of descendants of each kind, the nearest and newest; None for everything, in both directions.
    """
    adapters = select(tables.AdapterRow).options(defer(tables.AdapterRow.training))
    with workspace.database.read() as session:
        keys = [key_of(thing) for thing in find_things(session, reference, among=adapters)]
        most = None if limit is None else ancestors
        above, cut_above = walk(session, keys if up else [], up=True, limit=most)
        below, cut_below = walk(session, keys if down else [], up=False, limit=limit)
        shown = dict.fromkeys([*keys, *above, *below])
        links = [
            (made, source, relation)
            for made, source, relation in links_of(session, shown)
            if (made in above and source in above)
            or (relation != FUSED_FROM and made in below and source in below)
        ]
        if limit is None:
            shown = dict.fromkeys(
                sorted(shown, key=lambda key: (key not in keys, DOWN.index(key[0]), key[1]))
            )
        nodes = nodes_of(session, shown)
        roots = tuple(dict.fromkeys(nodes[key].id for key in keys))
        named = ((nodes[made].id, nodes[source].id, relation) for made, source, relation in links)
        edges = dict.fromkeys(Edge(*ends) for ends in named)
        by_id = {node.id: node for node in nodes.values()}
        return Graph(roots[0], by_id, list(edges), roots, cut_above or cut_below)
