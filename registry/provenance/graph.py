"""The graph itself: plain values, so that whoever draws or exports it needs no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..records.views import moment
from ..records.withdrawals import Withdrawals, own
from ..records.withdrawals import shown as withdrawals_shown

TRAINED_ON = "trained-on-base"
REGISTERED_FOR = "registered-for-base"
"""The relation of an adapter to its base, if it was declared to be trained on another one."""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing.

    Attributes:
        id: unique within the graph, and the same in every run and registry: made of what the thing is.
        kind: `base`, `dataset`, `adapter`, `fused`, `bundle`, `alias` or `deployment`.
        name: what people call it.
        digest: of its files, or of what an alias holds or a place runs; empty where there is none.
        withdrawals: the yanks that concern it; an alias and a place are told what the adapter that they hold or run is.
        at: when it was recorded, made, set or deployed.
        by: who did that.
        facts: more about it, by kind; for exports.
    """

    id: str
    kind: str
    name: str
    digest: str
    withdrawals: Withdrawals = ()
    at: datetime | None = None
    by: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def yanked(self) -> str | None:
        """Why the adapter that it is, holds or runs is yanked itself; None if it is not."""
        return own(self.withdrawals)

    @property
    def told(self) -> str:
        """All yanks that concern it, in words; empty if there is nothing."""
        return "; ".join(each.told for each in self.withdrawals)

    @property
    def over(self) -> bool:
        """It is a deployment that was ended."""
        return self.facts.get("ended_at") is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the node as `--json` prints it."""
        shown: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            "yanked": self.yanked,
            "withdrawals": withdrawals_shown(self.withdrawals),
            "at": moment(self.at) if self.at else None,
            "by": self.by,
        }
        if self.kind == "deployment":
            ended = self.facts.get("ended_at")
            shown["ended_at"] = moment(ended) if ended else None
        return shown


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` was made from `target`, holds it or runs it, as `relation` says."""

    source: str
    target: str
    relation: str

    def to_dict(self) -> dict[str, str]:
        """Return the edge as `--json` prints it."""
        return {"from": self.source, "to": self.target, "relation": self.relation}


@dataclass(slots=True)
class Graph:
    """A lineage graph.

    Attributes:
        root: id of the subject.
        nodes: by their ids.
        edges: each once.
        roots: all subjects: a dataset may have several revisions.
    """

    root: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    roots: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as `--json` prints it."""
        return {
            "root": self.root,
            "roots": list(self.roots or (self.root,)),
            "nodes": [node.to_dict() for node in self.nodes.values()],
            "edges": [edge.to_dict() for edge in self.edges],
        }
