"""Lineage graphs, cut or complete, and the nodes of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from fusery.storage.digest import digest_bytes, digest_json

from .. import tables
from ..database.engine import batches
from ..records.adapter import Withdrawals
from ..records.fused_rows import label_of
from ..records.graph import DeploymentNode, Edge, Graph, Node
from ..records.references import find_things
from ..records.withdrawals import of_adapters, of_bundles, of_fused
from .closure import DOWN, FUSED_FROM, Key, links_of, walk

if TYPE_CHECKING:
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


def nodes_of(session: Session, keys: Iterable[Key]) -> dict[Key, Node]:
    """Return the nodes of records, by `key_of`; in a few queries for each few hundred of them."""
    wanted = dict.fromkeys(keys)
    nodes = _adapters(session, [number for table, number in wanted if table == _ADAPTER.__tablename__])
    rows: dict[Key, Made] = {}
    for kind, options in _OPTIONS.items():
        numbers = (number for table, number in wanted if table == kind.__tablename__)
        for chosen in batches(numbers):
            query = select(kind).where(kind.id.in_(chosen)).options(*options)
            rows |= {key_of(row): row for row in session.scalars(query).unique()}
    known = _NodeFacts.about(session, list(rows.values()))
    nodes |= {key: _node(row, known) for key, row in rows.items()}
    return {key: nodes[key] for key in wanted}


_BASE, _ADAPTER, _FUSED, _EXTRA = (
    tables.BaseModelRow,
    tables.AdapterRow,
    tables.FusedRow,
    tables.FusedExtraRow,
)
_ALIAS, _DEPLOYMENT = tables.AliasRow, tables.DeploymentRow
_OPTIONS: Mapping[Any, Sequence[ORMOption]] = {
    _BASE: (joinedload(_BASE.names), defer(_BASE.weights), defer(_BASE.config)),
    tables.DatasetRow: (),
    _FUSED: (
        joinedload(_FUSED.adapter).load_only(_ADAPTER.name),
        selectinload(_FUSED.extras).joinedload(_EXTRA.adapter).load_only(_ADAPTER.name),
    ),
    tables.BundleRow: (),
    _ALIAS: (joinedload(_ALIAS.task), joinedload(_ALIAS.adapter).load_only(_ADAPTER.digest)),
    _DEPLOYMENT: (
        joinedload(_DEPLOYMENT.adapter).load_only(_ADAPTER.digest),
        joinedload(_DEPLOYMENT.fused).load_only(_FUSED.digest),
        joinedload(_DEPLOYMENT.bundle).load_only(tables.BundleRow.digest),
    ),
}
"""What is loaded with the records of a kind; adapters, which may be very many, are read as plain columns."""


@dataclass(slots=True)
class _NodeFacts:
    """What nodes need beyond the row itself."""

    adapters: Mapping[int, Withdrawals] = field(default_factory=dict)
    fused: Mapping[int, Withdrawals] = field(default_factory=dict)
    bundles: Mapping[int, Withdrawals] = field(default_factory=dict)
    moves: Mapping[int, tables.AliasMoveRow] = field(default_factory=dict)

    @classmethod
    def about(cls, session: Session, rows: list[Made]) -> _NodeFacts:
        numbers: dict[str, list[int]] = {"adapter": [], "fused": [], "bundle": []}
        for row in rows:
            if row.__tablename__ in numbers:
                numbers[row.__tablename__].append(row.id)
            elif isinstance(row, tables.AliasRow | tables.DeploymentRow):
                for name, held in numbers.items():
                    number = getattr(row, f"{name}_id", None)
                    held += [] if number is None else [number]
        return cls(
            of_adapters(session, numbers["adapter"]),
            of_fused(session, numbers["fused"]),
            of_bundles(session, numbers["bundle"]),
            {
                row.alias_id: row
                for row in _last_moves(
                    session, (each.id for each in rows if isinstance(each, tables.AliasRow))
                )
            },
        )


def _adapters(session: Session, numbers: list[int]) -> dict[Key, Node]:
    found: dict[Key, Node] = {}
    query = select(_ADAPTER.id, _ADAPTER.name, _ADAPTER.digest, _ADAPTER.created_at, _ADAPTER.created_by)
    for chosen in batches(numbers):
        told = of_adapters(session, chosen)
        rows = {row[0]: row for row in session.execute(query.where(_ADAPTER.id.in_(chosen)))}
        for number, name, digest, at, by in map(rows.__getitem__, chosen):
            node = Node(f"adapter:{name}", "adapter", name, digest, told.get(number, ()), at, by)
            found[_ADAPTER.__tablename__, number] = node
    return found


def _last_moves(session: Session, ids: Iterable[int]) -> Iterable[tables.AliasMoveRow]:
    move = tables.AliasMoveRow
    for chosen in batches(ids):
        last = select(func.max(move.id)).where(move.alias_id.in_(chosen)).group_by(move.alias_id)
        yield from session.scalars(select(move).where(move.id.in_(last)))


def _node(thing: Made, known: _NodeFacts) -> Node:
    """Return the node of a record that is no adapter; the same thing has the same id in every registry."""
    if isinstance(thing, tables.AliasRow):
        return _alias(thing, known)
    if isinstance(thing, tables.DeploymentRow):
        return _deployment(thing, known)
    if isinstance(thing, tables.DatasetRow):
        identity = digest_json([thing.name, thing.revision, thing.digest])
        return Node(f"dataset:{identity[:16]}", "dataset", thing.name, thing.digest)
    told: Withdrawals = ()
    if isinstance(thing, tables.BaseModelRow):
        node_id, kind, name = f"base:{thing.digest[:16]}", "base", thing.name
    elif isinstance(thing, tables.FusedRow):
        node_id, kind, name = f"fused:{thing.key[:16]}", "fused", label_of(thing)
        told = known.fused.get(thing.id, ())
    else:
        assert isinstance(thing, tables.BundleRow)
        place = digest_bytes(thing.path.encode())[:8]
        node_id, kind, name = (
            f"bundle:{thing.digest[:16]}:{place}",
            "bundle",
            f"{thing.target} {thing.path}",
        )
        told = known.bundles.get(thing.id, ())
    return Node(node_id, kind, name, thing.digest, told, thing.created_at, thing.created_by)


def _alias(row: tables.AliasRow, known: _NodeFacts) -> Node:
    name, move = f"{row.task.name}#{row.name}", known.moves.get(row.id)
    return Node(
        f"alias:{name}",
        "alias",
        name,
        row.adapter.digest if row.adapter else "",
        known.adapters.get(row.adapter_id or 0, ()),
        move.at if move else None,
        move.by if move else None,
    )


def _deployment(row: tables.DeploymentRow, known: _NodeFacts) -> Node:
    held = row.bundle or row.fused or row.adapter
    assert held is not None  # the database sees to that
    told = {"bundle": known.bundles, "fused": known.fused, "adapter": known.adapters}[held.__tablename__]
    identity = digest_json([row.place, row.at.isoformat(), held.digest])
    return DeploymentNode(
        f"deployment:{identity[:16]}",
        "deployment",
        row.place,
        held.digest,
        told.get(held.id, ()),
        row.at,
        row.by,
        ended_at=row.ended_at,
    )


LIMIT = 100
"""Descendants of a kind in a graph that is not complete."""

ANCESTORS = 1_000
"""Ancestors of a kind, there: a line of versions is rarely that long."""


def trace(
    workspace: Workspace,
    reference: str,
    *,
    up: bool = True,
    down: bool = True,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
) -> Graph:
    """Return what a record was made from (`up`), what was made from it and where it went (`down`).

    Args:
        reference: as `references.find_things` takes it.
        limit: descendants of each kind: the nearest, and the newest of these.  Where there are more, the graph is `cut`.
            None for everything, in both directions.
    """
    adapters = select(tables.AdapterRow).options(defer(tables.AdapterRow.training))
    with workspace.database.read() as session:
        things = find_things(session, reference, among=adapters)
        return trace_things(session, things, up=up, down=down, limit=limit, ancestors=ancestors)


def trace_things(
    session: Session,
    starts: Sequence[Made],
    *,
    up: bool = True,
    down: bool = True,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
) -> Graph:
    """Return what `trace` does, of several records at once."""
    keys = [key_of(thing) for thing in starts]
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
    nodes = nodes_of(session, sorted(shown, key=lambda key: (key not in keys, DOWN.index(key[0]), key[1])))
    roots = tuple(dict.fromkeys(nodes[key].id for key in keys))
    edges = dict.fromkeys(
        Edge(nodes[made].id, nodes[source].id, relation) for made, source, relation in links
    )
    by_id = {node.id: node for node in nodes.values()}
    return Graph(roots[0], by_id, list(edges), roots, cut_above or cut_below)
