"""Following the records up and down, a generation at a time: as many queries as there are generations, not things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from .. import tables
from ..records.things import find_things
from .graph import Edge, Graph
from .nodes import Made, key_of, nodes_of
from .relations import Asked, Key, Link, line_of, links_of

if TYPE_CHECKING:
    from ..workspace import Workspace


def trace(
    workspace: Workspace,
    reference: str,
    *,
    up: bool = True,
    down: bool = True,
    complete: bool = False,
    most: int | None = None,
) -> Graph:
    """Return what a thing was made from (`up`), what was made from it and where it went (`down`).

    Args:
        workspace: the registry's parts.
        reference: as `things.find_things` takes it.
        up: what it was made from.
        down: what was made from it, the aliases that hold it, and where it was deployed.
        complete: also what else the things in the graph were made from, at first hand: a document about a fuse names
            all that went in.
        most: things in the graph; where there are more, it is `cut`.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several things.
    """
    plain = select(tables.Adapter).options(defer(tables.Adapter.training))
    with workspace.database.read() as session:
        starts = find_things(session, reference, among=plain)
        return trace_things(session, starts, up=up, down=down, complete=complete, most=most)


def trace_things(
    session: Session,
    starts: Sequence[Made],
    *,
    up: bool = True,
    down: bool = True,
    complete: bool = False,
    most: int | None = None,
) -> Graph:
    """Return what `trace` does, of several records at once.

    Args:
        session: of any transaction.
        starts: at least one.
        up: as `trace` has it.
        down: as `trace` has it.
        complete: as `trace` has it.
        most: as `trace` has it; the nearest ones and, of what is as near, the newest are in it.
    """
    found = _Found(session, [key_of(thing) for thing in starts], most)
    found.walk([way for way, wanted in ((True, up), (False, down)) if wanted])
    if complete and not found.cut:
        found.step([(key, True) for key in found.keys])
    return found.graph()


class _Found:
    """What was come across, in that order."""

    def __init__(self, session: Session, starts: Sequence[Key], most: int | None) -> None:
        self._session = session
        self._starts = starts
        self._most = most
        self._links: dict[Link, None] = {}
        self.keys = dict.fromkeys(starts)
        self.cut = False

    def walk(self, ways: Sequence[bool]) -> None:
        """Follow the records from the starts, upwards or downwards or both, until nothing is new."""
        generation: list[Asked] = [(key, up) for up in ways for key in self._starts]
        seen = set(generation)
        while generation and not self.cut:
            line = line_of(self._session, generation, self._most)
            generation += [asked for asked in line if asked not in seen]
            seen |= set(generation)
            met = self.step(generation)
            generation = [asked for asked in dict.fromkeys(met) if asked not in seen]
            seen |= set(generation)

    def step(self, generation: Sequence[Asked]) -> list[Asked]:
        """Follow one step from some things; return what it led to."""
        met = []
        for up, link in links_of(self._session, generation, self._most):
            for key in link[:2]:
                if key not in self.keys and self._most is not None and len(self.keys) >= self._most:
                    self.cut = True
                    break
                self.keys.setdefault(key)
            else:
                self._links[link] = None
                met.append((link[1] if up else link[0], up))
        return met

    def graph(self) -> Graph:
        nodes = nodes_of(self._session, self.keys)
        roots = tuple(dict.fromkeys(nodes[key].id for key in self._starts))
        edges = dict.fromkeys(
            Edge(nodes[source].id, nodes[target].id, relation) for source, target, relation in self._links
        )
        return Graph(roots[0], {node.id: node for node in nodes.values()}, list(edges), roots, self.cut)
