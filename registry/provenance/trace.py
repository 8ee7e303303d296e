"""Following the records up and down: the nearest things in a fixed number of statements, or all there is a part at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from .. import tables
from ..records.graph import Edge, Graph
from ..records.things import Thing, find_things
from .closure import ADAPTER, counts, nearest_adapters
from .nodes import Made, key_of, nodes_of
from .relations import Key, Link, links_of
from .whole import Whole

if TYPE_CHECKING:
    from ..workspace import Workspace

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
    inputs: bool = False,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
    count: bool = True,
) -> Graph:
    """Return what a thing was made from (`up`), what was made from it and where it went (`down`).

    Args:
        workspace: the registry's parts.
        reference: as `things.find_things` takes it.
        up: what it was made from.
        down: what was made from it, the aliases that hold it, and where it was deployed.
        inputs: also what else the things in the graph were made from, at first hand: a document about a fuse names
            all that went in.
        limit: things of each kind that were made from it: the nearest, and the newest of what is as near.  Where there are
            more, the graph is `cut`.  None for all there are, in both directions, which may be millions.
        ancestors: the same of what it was made from.
        count: say how many are left out.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several things.
    """
    with workspace.database.read() as session:
        return trace_things(
            session,
            _find(session, reference),
            up=up,
            down=down,
            inputs=inputs,
            limit=limit,
            ancestors=ancestors,
            count=count,
        )


@contextmanager
def trace_whole(
    workspace: Workspace, reference: str, *, up: bool = True, down: bool = True
) -> Iterator[Whole]:
    """Yield all that `trace` finds without a limit, which is read a part at a time until the context is left.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several things.
    """
    with workspace.database.read() as session:
        starts = [key_of(thing) for thing in _find(session, reference)]
        yield Whole(session, starts, up=up, down=down)


def _find(session: Session, reference: str) -> list[Thing]:
    return find_things(
        session, reference, among=select(tables.Adapter).options(defer(tables.Adapter.training))
    )


def trace_things(
    session: Session,
    starts: Sequence[Made],
    *,
    up: bool = True,
    down: bool = True,
    inputs: bool = False,
    limit: int | None = LIMIT,
    ancestors: int = ANCESTORS,
    count: bool = True,
) -> Graph:
    """Return what `trace` does, of several records at once.

    Args:
        session: of any transaction.
        starts: at least one.
        up: as `trace` has it.
        down: as `trace` has it.
        inputs: as `trace` has it.
        limit: as `trace` has it.
        ancestors: as `trace` has it.
        count: as `trace` has it.
    """
    keys = [key_of(thing) for thing in starts]
    if limit is None:
        return _whole(session, keys, up=up, down=down, inputs=inputs)
    above = _Reached(session, keys if up else [], up=True, limit=ancestors)
    below = _Reached(session, keys if down else [], up=False, limit=limit)
    found = dict.fromkeys([*keys, *above.keys, *below.keys])
    asked = [(key, True) for key in above.keys] + [(key, False) for key in below.keys]
    links = [link for _, link in links_of(session, asked, None, within={True: above.keys, False: below.keys})]
    if inputs:
        links += _inputs(session, list(found), ANCESTORS)
    left_out: dict[str, int] | None = {}
    if above.cut or below.cut:
        left_out = dict(Counter(above.left_out()) + Counter(below.left_out())) if count else None
    cut = left_out is None or bool(left_out)
    return _graph(session, keys, found, links, cut, left_out)


def _graph(
    session: Session,
    starts: Sequence[Key],
    found: dict[Key, None],
    links: Sequence[Link],
    cut: bool,
    left_out: dict[str, int] | None,
) -> Graph:
    for link in links:
        found |= dict.fromkeys(link[:2])
    nodes = nodes_of(session, found)
    roots = tuple(dict.fromkeys(nodes[key].id for key in starts))
    edges = dict.fromkeys(
        Edge(nodes[made].id, nodes[source].id, relation) for made, source, relation in links
    )
    return Graph(roots[0], {node.id: node for node in nodes.values()}, list(edges), roots, cut, left_out)


def _inputs(session: Session, keys: Sequence[Key], most: int | None) -> list[Link]:
    """Return what things were made from at first hand."""
    return [link for _, link in links_of(session, [(key, True) for key in keys], most)]


def _whole(session: Session, starts: Sequence[Key], *, up: bool, down: bool, inputs: bool) -> Graph:
    whole = Whole(session, starts, up=up, down=down, facts=True)
    graph = whole.graph()
    if inputs:
        links = _inputs(session, whole.keys, None)
        more = _graph(session, starts, {}, links, False, {})
        graph.by_id |= {key: node for key, node in more.by_id.items() if key not in graph.by_id}
        graph.edges = list(dict.fromkeys([*graph.edges, *more.edges]))
    return graph


class _Reached:
    """What is reached one way, the nearest first: kind by kind, since each kind is made from those before it.

    Attributes:
        keys: what was reached, the starts before all.
        cut: there may be more.
    """

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
        for there, numbers in met.items():
            room = self._limit - has[there]
            self.cut |= len(numbers) > room
            self.keys |= dict.fromkeys((there, number) for number in sorted(numbers, reverse=True)[:room])

    def left_out(self) -> dict[str, int]:
        """Return how many more there are, by kind."""
        if not self._starts:
            return {}
        shown = Counter(kind for kind, _ in self.keys)
        all_of = counts(self._session, self._starts, up=self._up, many=self._many)
        return {
            "base" if kind == tables.BaseModel.__tablename__ else kind: number - shown[kind]
            for kind, number in all_of.items()
            if number > shown[kind]
        }
