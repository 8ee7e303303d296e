"""Lineage graphs: the nearest things in a fixed number of statements, or everything; and the nodes of records."""

from __future__ import annotations

from collections import Counter, defaultdict
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
from .closure import ADAPTER, DOWN, FUSED_FROM, Key, counts, links_of, nearest_adapters, numbers

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
"""Things of a kind that were made from something, in a graph that is not asked to be complete."""

ANCESTORS = 1_000
"""Things of a kind that something was made from, there: a line of versions is rarely that long."""


def trace(
    workspace: Workspace,
    reference: str,
    *,
    up: bool = True,
    down: bool = True,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
    count: bool = True,
) -> Graph:
    """Return what a thing was made from (`up`), what was made from it and where it went (`down`).

    Args:
        reference: as `things.find_things` takes it.
        limit: things of each kind that were made from it: the nearest, and the newest of what is as near.  Where there are
            more, the graph is `cut`.  None for all there are, in both directions, which may be millions.
    """
    adapters = select(tables.AdapterRow).options(defer(tables.AdapterRow.training))
    with workspace.database.read() as session:
        things = find_things(session, reference, among=adapters)
        return trace_things(session, things, up=up, down=down, limit=limit, ancestors=ancestors, count=count)


def trace_things(
    session: Session,
    starts: Sequence[Made],
    *,
    up: bool = True,
    down: bool = True,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
    count: bool = True,
) -> Graph:
    """Return what `trace` does, of several records at once."""
    keys = [key_of(thing) for thing in starts]
    found, left_out = dict.fromkeys(keys), dict[str, int]()
    cut = False
    if limit is None:
        made_from = numbers(session, keys, up=True) if up else {}
        made_into = numbers(session, keys, up=False) if down else {}
        for kind in DOWN:
            both = made_from.get(kind, set()) | made_into.get(kind, set())
            found |= dict.fromkeys((kind, number) for number in sorted(both))
        links = [
            (made, source, relation)
            for _, (made, source, relation) in links_of(session, [(key, True) for key in found], None)
            if made[1] in made_from.get(made[0], ())
            or (
                relation != FUSED_FROM
                and all(number in made_into.get(kind, ()) for kind, number in (made, source))
            )
        ]
    else:
        above = _Reached(session, keys if up else [], up=True, limit=ancestors)
        below = _Reached(session, keys if down else [], up=False, limit=limit)
        asked = [(key, True) for key in above.keys] + [(key, False) for key in below.keys]
        within = {True: above.keys, False: below.keys}
        links = [link for _, link in links_of(session, asked, None, within=within)]
        cut = above.cut or below.cut
        if cut and count:
            left_out = dict(Counter(above.left_out()) + Counter(below.left_out()))
            cut = bool(left_out)
        found |= dict.fromkeys([*above.keys, *below.keys, *(key for link in links for key in link[:2])])
    nodes = nodes_of(session, found)
    roots = tuple(dict.fromkeys(nodes[key].id for key in keys))
    edges = dict.fromkeys(
        Edge(nodes[made].id, nodes[source].id, relation) for made, source, relation in links
    )
    by_id = {node.id: node for node in nodes.values()}
    return Graph(roots[0], by_id, list(edges), roots, cut, None if cut and not count else left_out)


class _Reached:
    """What is reached one way, the nearest first: kind by kind, since each kind is made from those before it."""

    def __init__(self, session: Session, starts: Sequence[Key], *, up: bool, limit: int) -> None:
        self._session, self._starts, self._up, self._limit = session, starts, up, limit
        self.keys = dict.fromkeys(starts)
        self.cut = self._many = False
        if up:
            self._step("bundle")
            self._step("fused")
            self._adapters()
            self._step(ADAPTER)
        else:
            self._adapters()
            for kind in (ADAPTER, "fused", "bundle"):
                self._step(kind)

    def _adapters(self) -> None:
        """Go to the adapters that are reached, through other adapters if need be."""
        found = nearest_adapters(self._session, list(self.keys), up=self._up, limit=self._limit)
        self._many = len(found) > self._limit
        self.cut |= self._many
        self.keys |= dict.fromkeys((ADAPTER, number) for number in found[: self._limit])

    def _step(self, kind: str) -> None:
        """Go from things of a kind to what is joined to them at once, the newest; from adapters to adapters one has gone before."""
        asked = [(key, self._up) for key in self.keys if key[0] == kind]
        links = links_of(self._session, asked, self._limit) if asked else []
        self.cut |= max(Counter(link[2] for _, link in links).values(), default=0) > self._limit
        met: dict[str, set[int]] = defaultdict(set)
        for _, link in links:
            there, number = link[1] if self._up else link[0]
            if there != kind and (there, number) not in self.keys:
                met[there].add(number)
        starts = set(self._starts)
        has = Counter(key[0] for key in self.keys if key not in starts)
        for there, reached in met.items():
            room = self._limit - has[there]
            self.cut |= len(reached) > room
            self.keys |= dict.fromkeys((there, number) for number in sorted(reached, reverse=True)[:room])

    def left_out(self) -> dict[str, int]:
        """Return how many more there are, by kind."""
        if not self._starts:
            return {}
        shown = Counter(kind for kind, _ in self.keys)
        all_of = counts(self._session, self._starts, up=self._up, many=self._many)
        return {
            "base" if kind == tables.BaseModelRow.__tablename__ else kind: number - shown[kind]
            for kind, number in all_of.items()
            if number > shown[kind]
        }
