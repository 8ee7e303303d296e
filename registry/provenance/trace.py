"""Lineage graphs, cut or complete, and the nodes of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer, joinedload, lazyload, load_only, selectinload
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


_BASE, _ADAPTER, _FUSED, _BUNDLE = (
    tables.BaseModelRow,
    tables.AdapterRow,
    tables.FusedRow,
    tables.BundleRow,
)
_ALIAS, _DEPLOYMENT, _EXTRA = tables.AliasRow, tables.DeploymentRow, tables.FusedExtraRow
_OPTIONS: Mapping[Any, Sequence[ORMOption]] = {
    _ADAPTER: (
        load_only(_ADAPTER.name, _ADAPTER.digest, _ADAPTER.created_at, _ADAPTER.created_by),
        lazyload("*"),
    ),
    _BASE: (joinedload(_BASE.names), defer(_BASE.weights), defer(_BASE.config)),
    tables.DatasetRow: (),
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
"""What is loaded with the records of a kind."""


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
            moves = _last_moves(session, chosen) if kind is _ALIAS else {}
            nodes |= {key_of(row): _node(row, withdrawals, moves.get(row.id)) for row in rows}
    return {key: nodes[key] for key in wanted}


def _held(row: Made) -> Made | None:
    if isinstance(row, _DEPLOYMENT):
        return row.bundle or row.fused or row.adapter
    return row.adapter if isinstance(row, _ALIAS) else row


def _withdrawals(session: Session, rows: Sequence[Made]) -> dict[Key, Withdrawals]:
    held = [key_of(thing) for row in rows if (thing := _held(row)) is not None]
    return {
        (table.__tablename__, number): found
        for table, find in ((_ADAPTER, of_adapters), (_FUSED, of_fused), (_BUNDLE, of_bundles))
        for number, found in find(session, [key[1] for key in held if key[0] == table.__tablename__]).items()
    }


def _last_moves(session: Session, aliases: Sequence[int]) -> dict[int, tables.AliasMoveRow]:
    move = tables.AliasMoveRow
    last = select(func.max(move.id)).where(move.alias_id.in_(aliases)).group_by(move.alias_id)
    return {row.alias_id: row for row in session.scalars(select(move).where(move.id.in_(last)))}


def _node(row: Made, withdrawals: Mapping[Key, Withdrawals], move: tables.AliasMoveRow | None) -> Node:
    """Return the node of a record; the same thing has the same id in every registry."""
    held = _held(row)
    found = withdrawals.get(key_of(held), ()) if held is not None else ()
    digest = held.digest if held is not None and not isinstance(held, _ALIAS | _DEPLOYMENT) else ""
    if isinstance(row, tables.DatasetRow):
        identity = digest_json([row.name, row.revision, row.digest])[:16]
        return Node(f"dataset:{identity}", "dataset", row.name, digest)
    if isinstance(row, _DEPLOYMENT):
        identity = digest_json([row.place, row.at.isoformat(), digest])[:16]
        return DeploymentNode(
            f"deployment:{identity}",
            "deployment",
            row.place,
            digest,
            found,
            row.at,
            row.by,
            ended_at=row.ended_at,
        )
    if isinstance(row, _ALIAS):
        at, by = (move.at, move.by) if move is not None else (None, None)
        name = f"{row.task.name}#{row.name}"
        return Node(f"alias:{name}", "alias", name, digest, found, at, by)
    if isinstance(row, _ADAPTER):
        kind, identity, name = "adapter", row.name, row.name
    elif isinstance(row, _BASE):
        kind, identity, name = "base", digest[:16], row.name
    elif isinstance(row, _FUSED):
        kind, identity, name = "fused", row.key[:16], label_of(row)
    else:
        place = digest_bytes(row.path.encode())[:8]
        kind, identity, name = "bundle", f"{digest[:16]}:{place}", f"{row.target} {row.path}"
    return Node(f"{kind}:{identity}", kind, name, digest, found, row.created_at, row.created_by)


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
    if limit is None:
        shown = dict.fromkeys(sorted(shown, key=lambda key: (key not in keys, DOWN.index(key[0]), key[1])))
    nodes = nodes_of(session, shown)
    roots = tuple(dict.fromkeys(nodes[key].id for key in keys))
    edges = dict.fromkeys(
        Edge(nodes[made].id, nodes[source].id, relation) for made, source, relation in links
    )
    by_id = {node.id: node for node in nodes.values()}
    return Graph(roots[0], by_id, list(edges), roots, cut_above or cut_below)
