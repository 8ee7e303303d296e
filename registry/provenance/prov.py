"""A lineage graph as PROV-JSON, the W3C's form of provenance (https://www.w3.org/submissions/prov-json/).

Things are entities; training, computing, fusing, packing, moving an alias and deploying are activities; who did it is an agent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from fusery.storage.digest import digest_bytes

from ..documents import without_places
from ..records.graph import COMPUTED_FROM, REGISTERED_FOR, Graph, Node

NAMESPACE = "urn:fusery:"
"""Of everything that is ours; `docs/guides/lineage.md` says what is in it."""

ACTIVITIES = {
    "adapter": "training",
    "fused": "fusing",
    "bundle": "packing",
    "alias": "naming",
    "deployment": "deployment",
}
"""How a thing of each kind came to be; a deployment is an activity itself."""

COMPUTING = "computing"
"""How an adapter came to be that was computed from others."""


def computed(graph: Graph) -> frozenset[str]:
    """Return the ids of the adapters that were computed from others in a graph."""
    return frozenset(edge.source for edge in graph.edges if edge.relation == COMPUTED_FROM)


def prov(graph: Graph) -> dict[str, Any]:
    """Return the PROV-JSON document of a graph."""
    made, own = _Made(), computed(graph)
    for node in graph.nodes:
        if node.kind != "deployment":
            made.put("entity", _name(node), _entity(node))
        if node.kind in ACTIVITIES:
            _activity(made, node, own)
    for edge in graph.edges:
        source, target = graph.by_id[edge.source], graph.by_id[edge.target]
        if edge.relation == REGISTERED_FOR:
            # Its training used another base.
            told = {"prov:influencee": _name(source), "prov:influencer": _name(target)}
            made.relate("wasInfluencedBy", {**told, "fusery:relation": edge.relation})
            continue
        made.relate("used", {"prov:activity": _activity_name(source, own), "prov:entity": _name(target)})
        if source.kind == "deployment":
            continue
        made.relate(
            "wasDerivedFrom",
            {
                "prov:generatedEntity": _name(source),
                "prov:usedEntity": _name(target),
                "prov:activity": _activity_name(source, own),
                "fusery:relation": edge.relation,
            },
        )
    return {"prefix": {"fusery": NAMESPACE}, **made.document}


class _Made:
    """The document as it grows; relations have no names of their own and are numbered."""

    def __init__(self) -> None:
        self.document: dict[str, dict[str, Any]] = defaultdict(dict)

    def put(self, kind: str, name: str, values: Mapping[str, Any]) -> None:
        self.document[kind][name] = {key: value for key, value in values.items() if value is not None}

    def relate(self, kind: str, values: Mapping[str, Any]) -> None:
        self.document[kind][f"_:{kind}{len(self.document[kind]) + 1}"] = dict(values)

    def agent(self, who: str) -> str:
        name = f"fusery:agent/{digest_bytes(who.encode())[:16]}"
        self.put("agent", name, {"prov:label": who})
        return name


def _name(node: Node) -> str:
    """Return a qualified name: the id, in the letters that one may have."""
    return "fusery:" + node.id.replace(":", "/").replace("#", "/")


def activity_of(node: Node, own: Collection[str]) -> str:
    """Return how a thing came to be, or what it is if it is a deployment.

    Args:
        node: the thing.
        own: the ids of adapters that were computed from others.
    """
    return COMPUTING if node.id in own else ACTIVITIES[node.kind]


def _activity_name(node: Node, own: Collection[str]) -> str:
    return f"fusery:{activity_of(node, own)}/" + node.id.partition(":")[2].replace(":", "/").replace("#", "/")


def _entity(node: Node) -> dict[str, Any]:
    return {
        "prov:type": {"$": f"fusery:{node.kind}", "type": "prov:QUALIFIED_NAME"},
        "prov:label": _public(node),
        "fusery:digest": f"sha256:{node.digest}" if node.digest else None,
        **_withdrawn(node),
        **_facts(node),
    }


def _withdrawn(node: Node) -> dict[str, Any]:
    others = [each.told for each in node.withdrawals if each.relation != "itself"]
    return {"fusery:yanked": node.yanked, "fusery:withdrawals": others or None}


def _public(node: Node) -> str:
    """Return a node's name without what only means something on the machine that has it."""
    if node.kind == "bundle":
        return f"{node.facts['target']} {without_places(node.facts['path'])}"
    return str(without_places(node.name)) if node.kind == "dataset" else node.name


def _facts(node: Node) -> dict[str, Any]:
    told = {
        f"fusery:{key}": value
        for key, value in node.facts.items()
        if isinstance(value, str | int) and value != "" and key != "path"
    }
    # Numbers as the shortest text that gives them back: a reader's own floats would not.
    told |= {f"fusery:{key}": repr(value) for key, value in node.facts.items() if isinstance(value, float)}
    return told


def _activity(made: _Made, node: Node, computed_ids: Collection[str]) -> None:
    kind, name = activity_of(node, computed_ids), _activity_name(node, computed_ids)
    began, ended = times(node)
    own = _facts(node) if node.kind == "deployment" else {}
    made.put(
        "activity",
        name,
        {
            "prov:startTime": began.isoformat() if began else None,
            "prov:endTime": ended.isoformat() if ended else None,
            "prov:type": {"$": f"fusery:{kind}", "type": "prov:QUALIFIED_NAME"},
            "prov:label": f"{kind} of {_public(node)}",
            **own,
            **(_withdrawn(node) if node.kind == "deployment" else {}),
        },
    )
    agent = made.agent(node.by) if node.by else None
    if node.kind != "deployment":
        values = {"prov:entity": _name(node), "prov:activity": name}
        made.relate("wasGeneratedBy", values | ({"prov:time": ended.isoformat()} if ended else {}))
        if agent:
            made.relate("wasAttributedTo", {"prov:entity": _name(node), "prov:agent": agent})
    if agent:
        made.relate("wasAssociatedWith", {"prov:activity": name, "prov:agent": agent})


def times(node: Node) -> tuple[datetime | None, datetime | None]:
    """Return when the activity that a thing came from began and ended, as far as that is on record."""
    if node.kind == "deployment":
        return node.at, _moment(node, "ended_at")
    seconds = node.facts.get("seconds")
    lasted = timedelta(seconds=seconds) if isinstance(seconds, int | float) else None
    if node.kind == "adapter":
        started = _moment(node, "started_at")
        return started, None if started is None or lasted is None else started + lasted
    if node.kind == "fused" and node.at is not None and lasted is not None:
        return node.at - lasted, node.at
    return node.at, node.at


def _moment(node: Node, fact: str) -> datetime | None:
    value = node.facts.get(fact)
    # A server sends moments as texts.
    return (
        datetime.fromisoformat(value)
        if isinstance(value, str)
        else value
        if isinstance(value, datetime)
        else None
    )
