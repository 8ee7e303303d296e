"""The lineage graph: plain records, which can be drawn without a database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

from ..record import Record, described
from .adapter import Withdrawal, own

TRAINED_ON = "trained-on-base"
REGISTERED_FOR = "registered-for-base"  # of an adapter to its base, if it was trained on another one

COMPUTED_FROM = "computed-from"  # the relation of an adapter to those that it was combined or shrunk from


class Node(Record, kw_only=False):
    """A node of the lineage graph."""

    id: str = described("id, unique within the graph and the same in every run and registry")
    kind: str = described("kind: `base`, `dataset`, `adapter`, `fused`, `bundle`, `alias` or `deployment`")
    name: str = described("name")
    digest: str = described("digest of its files; for an alias or deployment, of its adapter; may be empty")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it or its adapter", default=())
    at: datetime | None = described("when it was registered, made, set or deployed", default=None)
    by: str | None = described("who did that", default=None)
    KEYS: ClassVar[tuple[str, ...]] = ("id", "kind", "name", "digest", "yanked", "withdrawals", "at", "by")

    @property
    def yanked(self) -> str | None:
        """Reason why its adapter is yanked; None if it is not."""
        return own(self.withdrawals)

    @property
    def summary(self) -> str:
        """Return all yanks that concern it, in words; empty without one."""
        return "; ".join(withdrawal.summary for withdrawal in self.withdrawals)

    @property
    def over(self) -> bool:
        """Return whether it is an ended deployment."""
        return False


class DeploymentNode(Node, kw_only=False):
    """A current or ended deployment."""

    ended_at: datetime | None = described("when it was ended; None while it runs", kw_only=True)
    KEYS: ClassVar[tuple[str, ...]] = (*Node.KEYS, "ended_at")

    @property
    def over(self) -> bool:
        """Return whether the deployment ended."""
        return self.ended_at is not None


class Edge(Record, kw_only=False):
    """An edge of the lineage graph: `source` was made from `target`, holds it or runs it."""

    source: str = described("id of the source node")
    target: str = described("id of the target node")
    relation: str = described("relation, such as `trained-on-base`")
    KEYS: ClassVar[tuple[str, ...]] = ("from_", "to", "relation")

    @property
    def from_(self) -> str:
        """Id of the node that was made from the other node, holds it or runs it."""
        return self.source

    @property
    def to(self) -> str:
        """Id of the other node."""
        return self.target


class Graph(Record, kw_only=False, frozen=False):
    """A lineage graph."""

    root: str = described("id of the subject's node")
    by_id: dict[str, Node | DeploymentNode] = described(default_factory=dict)
    edges: list[Edge] = described("the edges, without duplicates", default_factory=list)
    starts: tuple[str, ...] = ()  # ids of all subjects if there are several, such as a dataset's revisions
    cut: bool = described("nodes are left out: all but the nearest and newest of a kind", default=False)
    KEYS: ClassVar[tuple[str, ...]] = ("root", "roots", "nodes", "edges", "cut", "left_out")

    @property
    def roots(self) -> tuple[str, ...]:
        """Ids of all subjects, such as the revisions of a dataset."""
        return self.starts or (self.root,)

    @property
    def nodes(self) -> tuple[Node | DeploymentNode, ...]:
        """Its nodes."""
        return tuple(self.by_id.values())

    @property
    def left_out(self) -> Mapping[str, int] | None:
        """Empty if no node is left out, else None: they are not counted."""
        return None if self.cut else {}

    @property
    def more(self) -> str:
        """`and more` if nodes are left out, else empty."""
        return "and more" if self.cut else ""
