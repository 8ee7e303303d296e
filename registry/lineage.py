"""Lineage: what a thing was made from, and what was made from it, as a graph of nodes and edges.

Edges point from the made to what it was made from, as in W3C PROV: `wasDerivedFrom`, `wasTrainedOn`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_bytes, digest_json

from . import tables
from .resolve import fused_from, resolve_any, twins

if TYPE_CHECKING:
    from .workspace import Workspace


@dataclass(frozen=True, slots=True)
class Node:
    """One thing: its id is unique within the graph and stable between runs."""

    id: str
    kind: str
    name: str
    digest: str

    def to_dict(self) -> dict[str, str]:
        """Return the node as DESIGN section 9 prints it."""
        return {"id": self.id, "kind": self.kind, "name": self.name, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` was made from `target` in the way that `relation` says."""

    source: str
    target: str
    relation: str

    def to_dict(self) -> dict[str, str]:
        """Return the edge as DESIGN section 9 prints it."""
        return {"from": self.source, "to": self.target, "relation": self.relation}


@dataclass(slots=True)
class Graph:
    """A lineage graph; `root` is what was asked for."""

    root: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as DESIGN section 9 prints it."""
        return {
            "root": self.root,
            "nodes": [node.to_dict() for node in self.nodes.values()],
            "edges": [edge.to_dict() for edge in self.edges],
        }


Made = tables.BaseModel | tables.Adapter | tables.Fused | tables.Bundle | tables.Dataset


def _node(thing: Made) -> Node:
    if isinstance(thing, tables.BaseModel):
        return Node(f"base:{thing.digest[:16]}", "base", thing.names[0].name, thing.digest)
    if isinstance(thing, tables.Adapter):
        return Node(f"adapter:{thing.name}", "adapter", thing.name, thing.digest)
    if isinstance(thing, tables.Fused):
        names = [thing.adapter.name, *(extra.adapter.name for extra in thing.extras)]
        name = f"{' + '.join(names)} ({thing.precision})"
        return Node(f"fused:{thing.key[:16]}", "fused", name, thing.digest)
    if isinstance(thing, tables.Bundle):
        # Ids are made of what a thing is, not of its row: the same thing has the same id in every registry.
        place = digest_bytes(thing.path.encode())[:8]
        return Node(
            f"bundle:{thing.digest[:16]}:{place}", "bundle", f"{thing.target} {thing.path}", thing.digest
        )
    identity = digest_json([thing.name, thing.revision, thing.digest])
    return Node(f"dataset:{identity[:16]}", "dataset", thing.name, thing.digest)


def trace(workspace: Workspace, reference: str, *, up: bool = True, down: bool = True) -> Graph:
    """Return what a base, adapter or fused artifact was made from (`up`) and what was made from it (`down`).

    Raises:
        UnknownReferenceError: nothing has that name.
    """
    with workspace.database.read() as session:
        subject = resolve_any(session, reference)
        thing: Made | None = subject.base or subject.adapter or subject.fused
        assert thing is not None
        graph = Graph(_node(thing).id)
        graph.nodes[graph.root] = _node(thing)
        if up:
            _walk(session, graph, thing, _parents, upwards=True)
        if down:
            _walk(session, graph, thing, _children, upwards=False)
        return graph


Step = Callable[[Session, Made], Iterable[tuple[Made, str]]]


def _walk(session: Session, graph: Graph, start: Made, step: Step, *, upwards: bool) -> None:
    waiting, seen = [start], {_node(start).id}
    while waiting:
        thing = waiting.pop(0)
        for other, relation in step(session, thing):
            node = _node(other)
            graph.nodes.setdefault(node.id, node)
            here = _node(thing).id
            edge = Edge(here, node.id, relation) if upwards else Edge(node.id, here, relation)
            if edge not in graph.edges:
                graph.edges.append(edge)
            if node.id not in seen:
                seen.add(node.id)
                waiting.append(other)


def _parents(session: Session, thing: Made) -> Iterable[tuple[Made, str]]:
    if isinstance(thing, tables.Adapter):
        yield thing.base, "trained-on-base"
        if thing.dataset:
            yield thing.dataset, "trained-on-data"
        if thing.parent:
            yield thing.parent, "continued-from"
    elif isinstance(thing, tables.Fused):
        for adapter in (thing.adapter, *(extra.adapter for extra in thing.extras)):
            yield from ((twin, "fused-from-adapter") for twin in session.scalars(twins(adapter)))
        yield thing.base, "fused-from-base"
    elif isinstance(thing, tables.Bundle):
        if thing.fused:
            yield thing.fused, "packed-from"
        else:
            yield from ((adapter, "packed-from") for adapter in thing.adapters)


def _children(session: Session, thing: Made) -> Iterable[tuple[Made, str]]:
    adapter, bundle = tables.Adapter, tables.Bundle
    if isinstance(thing, tables.BaseModel):
        for row in session.scalars(select(adapter).where(adapter.base_id == thing.id).order_by(adapter.id)):
            yield row, "trained-on-base"
    elif isinstance(thing, tables.Adapter):
        for row in session.scalars(select(adapter).where(adapter.parent_id == thing.id).order_by(adapter.id)):
            yield row, "continued-from"
        for made in session.scalars(fused_from(thing)):
            yield made, "fused-from-adapter"
        exported = select(bundle).where(bundle.fused_id.is_(None), bundle.adapters.contains(thing))
        for written in session.scalars(exported.order_by(bundle.id)):
            yield written, "packed-from"
    elif isinstance(thing, tables.Fused):
        for packed in session.scalars(select(bundle).where(bundle.fused_id == thing.id).order_by(bundle.id)):
            yield packed, "packed-from"
