"""The graph itself: plain values, so that whoever draws or exports it needs no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from ..record import Record, described
from .withdrawal import Withdrawal, own

TRAINED_ON = "trained-on-base"
REGISTERED_FOR = "registered-for-base"
"""The relation of an adapter to its base, if it was declared to be trained on another one."""

COMPUTED_FROM = "computed-from"
"""The relation of an adapter to those that it was combined from, or cut to a smaller rank from."""


@dataclass(frozen=True, slots=True)
class Node(Record):
    """One thing.

    Attributes:
        withdrawals: the yanks that concern it; an alias and a place are told what the adapter that they hold or run is.
        at: when it was recorded, made, set or deployed.
        by: who did that.
        facts: more about it, by kind; for exports.
    """

    id: str = described(
        "unique within the graph, and the same in every run and registry: made of what the thing is"
    )
    kind: str = described("`base`, `dataset`, `adapter`, `fused`, `bundle`, `alias` or `deployment`")
    name: str = described("what people call it")
    digest: str = described(
        "of its files, or of what an alias holds or a place runs; empty where there is none"
    )
    withdrawals: tuple[Withdrawal, ...] = ()
    at: datetime | None = None
    by: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict, compare=False)
    KEYS: ClassVar[tuple[str, ...]] = (
        "id",
        "kind",
        "name",
        "digest",
        "yanked",
        "withdrawals",
        "at",
        "by",
    )

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
        return False


@dataclass(frozen=True, slots=True)
class DeploymentNode(Node):
    """Something that runs, or ran, somewhere.

    Attributes:
        ended_at: when it was ended; None while it runs.
    """

    ended_at: datetime | None = field(kw_only=True)
    KEYS: ClassVar[tuple[str, ...]] = (*Node.KEYS, "ended_at")

    @property
    def over(self) -> bool:
        """It was ended."""
        return self.ended_at is not None


@dataclass(frozen=True, slots=True)
class Edge(Record):
    """A relation of two things: `source` was made from `target`, holds it or runs it."""

    source: str = described("id of the one")
    target: str = described("id of the other")
    relation: str = described("which it is")
    KEYS: ClassVar[tuple[str, ...]] = ("from_", "to", "relation")

    @property
    def from_(self) -> str:
        """Id of what was made from the other, holds it or runs it."""
        return self.source

    @property
    def to(self) -> str:
        """Id of the other."""
        return self.target


@dataclass(slots=True)
class Graph(Record):
    """A lineage graph.

    Attributes:
        by_id: its things, by their ids.
        edges: each once.
        starts: ids of all subjects, where these are several: a dataset may have several revisions.
        cut: there is more than it has: of descendants and ancestors of a kind, the nearest are in it and the newest of these.
        left_out: how many things of each kind it does not have; None where it is cut and nobody counted.
    """

    root: str = described("id of the subject")
    by_id: dict[str, Node | DeploymentNode] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    starts: tuple[str, ...] = ()
    cut: bool = False
    left_out: Mapping[str, int] | None = field(default_factory=dict)
    KEYS: ClassVar[tuple[str, ...]] = ("root", "roots", "nodes", "edges", "cut", "left_out")

    @property
    def roots(self) -> tuple[str, ...]:
        """Ids of all subjects: a dataset may have several revisions."""
        return self.starts or (self.root,)

    @property
    def nodes(self) -> tuple[Node | DeploymentNode, ...]:
        """Its things."""
        return tuple(self.by_id.values())

    @property
    def more(self) -> str:
        """What it does not have, in words, such as `and 99,900 more adapters`; empty if it has all."""
        return more(self.left_out) if self.cut else ""


_WORDS = {"fused": ("fused model", "fused models"), "alias": ("alias", "aliases")}


def more(left_out: Mapping[str, int] | None) -> str:
    """Return how many things of each kind are left out, in words; empty if none is."""
    if left_out is None:
        return "and more"
    named = [
        f"{number:,} more {_WORDS.get(kind, (kind, f'{kind}s'))[number != 1]}"
        for kind, number in left_out.items()
        if number
    ]
    return "and " + ", ".join(named) if named else ""
