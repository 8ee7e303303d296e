"""All of a lineage, however large: its things and what joins them are read a part at a time.

What is remembered of a thing is its number and its id, a few hundred bytes; what is known of it passes through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from ..database.batches import batches
from ..records.graph import Edge, Graph, Node
from .closure import DOWN, numbers
from .nodes import nodes_of
from .relations import FUSED_FROM, Key, links_of

_SEVERAL = ("bundle", "deployment", "dataset")
"""Kinds of which several records may be one thing, such as a bundle that was written to the same place again."""


class Whole:
    """A lineage that is read a part at a time, within one transaction.

    Attributes:
        root: id of the subject.
        roots: ids of all subjects.
    """

    def __init__(
        self, session: Session, starts: Sequence[Key], *, up: bool, down: bool, facts: bool = False
    ) -> None:
        self._session, self._facts = session, facts
        self._made_from = numbers(session, starts, up=True) if up else {}
        self._made_into = numbers(session, starts, up=False) if down else {}
        first = nodes_of(session, starts)
        self._ids = {key: node.id for key, node in first.items()}
        self.roots = tuple(dict.fromkeys(self._ids[key] for key in starts))
        self.root = self.roots[0]
        self._first = first

    @property
    def nodes(self) -> Iterator[Node]:
        """Its things: the subjects, then the others by kind, in the order in which they were recorded."""
        seen = set()
        for node in self._first.values():
            if node.id not in seen:
                seen.add(node.id)
                yield node
        for kind in DOWN:
            for keys in self._keys(kind):
                for key, node in nodes_of(self._session, keys, facts=self._facts).items():
                    if key in self._first:
                        continue
                    self._ids[key] = node.id
                    if kind in _SEVERAL:
                        if node.id in seen:
                            continue
                        seen.add(node.id)
                    yield node

    @property
    def edges(self) -> Iterator[Edge]:
        """What joins its things, each once; the things are read before."""
        seen = set()
        for kind in DOWN:
            for keys in self._keys(kind):
                for _, (made, source, relation) in links_of(
                    self._session, [(key, True) for key in keys], None
                ):
                    if not self._joins(made, source, relation):
                        continue
                    edge = Edge(self._ids[made], self._ids[source], relation)
                    if kind in _SEVERAL or source[0] in _SEVERAL:
                        if edge in seen:
                            continue
                        seen.add(edge)
                    yield edge

    def _keys(self, kind: str) -> Iterator[list[Key]]:
        both = self._made_from.get(kind, set()) | self._made_into.get(kind, set())
        for chosen in batches(sorted(both)):
            yield [(kind, number) for number in chosen]

    def _joins(self, made: Key, source: Key, relation: str) -> bool:
        """Tell whether a relation was followed: all that lead on from what something was made from, or within what was made from it."""
        if made[1] in self._made_from.get(made[0], ()):
            return True
        return relation != FUSED_FROM and all(
            number in self._made_into.get(kind, ()) for kind, number in (made, source)
        )

    def graph(self) -> Graph:
        """Return all of it at once."""
        by_id = {node.id: node for node in self.nodes}
        return Graph(self.root, by_id, list(self.edges), self.roots)

    @property
    def keys(self) -> list[Key]:
        """What tells the records of its things from all others, once they are read."""
        return list(self._ids)
