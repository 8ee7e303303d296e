"""A lineage graph as OpenLineage events (https://openlineage.io/spec): a run each for training, computing, fusing and packing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid5

from ..records.graph import REGISTERED_FOR, Graph, Node
from .prov import NAMESPACE, activity_of, computed, times

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_RUNS = UUID("5b8c8b0e-5d0c-5f5e-9a53-0f2f8b0d7d11")
"""The name space of runs: the same thing has the same run in every export."""

_JOBS = ("adapter", "fused", "bundle")
_TYPES = {"base": "MODEL", "adapter": "MODEL", "fused": "MODEL", "bundle": "MODEL", "dataset": "FILE"}


def openlineage(graph: Graph) -> list[dict[str, Any]]:
    """Return the events, by the time of what they tell: of each run its START and its COMPLETE.

    Runs that nothing in the graph went into have no inputs: trace with `inputs` to have all of them.
    """
    own = computed(graph)
    runs = [node for node in graph.nodes if node.kind in _JOBS and node.at is not None]
    datasets = _datasets(graph)
    origins: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for edge in graph.edges:
        if edge.relation != REGISTERED_FOR:  # which no run has read
            origins[edge.source].append(datasets[edge.target])
    found = (
        event
        for node in runs
        for event in _events(node, activity_of(node, own), origins[node.id], datasets[node.id])
    )
    return sorted(found, key=_order)


def _order(event: Mapping[str, Any]) -> tuple[datetime, bool, str]:
    began = event["eventType"] == "START"
    return datetime.fromisoformat(event["eventTime"]), not began, event["run"]["runId"]


def _events(
    node: Node, activity: str, inputs: list[dict[str, Any]], output: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    began, ended = times(node)
    began, ended = began or ended or node.at, ended or began or node.at
    assert began is not None and ended is not None
    for kind, at in (("START", began), ("COMPLETE", ended)):
        yield {
            "eventType": kind,
            "eventTime": at.isoformat(),
            "producer": _producer(),
            "schemaURL": SCHEMA,
            "run": {"runId": str(uuid5(_RUNS, node.id)), "facets": _run_facets(node)},
            "job": {
                "namespace": "fusery",
                "name": f"{activity}/{_path(node)}",
                "facets": _job(node, activity),
            },
            "inputs": inputs,
            "outputs": [output] if kind == "COMPLETE" else [],
        }


def _producer() -> str:
    return f"{NAMESPACE}tool:{version('fusery')}"


def _path(node: Node) -> str:
    return node.id.partition(":")[2].replace(":", "/")


def _facet(facet: str, number: str, /, **values: Any) -> dict[str, Any]:
    return {
        "_producer": _producer(),
        "_schemaURL": f"{_FACETS}/{number}/{facet}.json#/$defs/{facet}",
        **values,
    }


def _run_facets(node: Node) -> dict[str, Any]:
    if node.kind != "fused":
        return {}
    engine = str(node.facts["engine"])
    return {"processing_engine": _facet("ProcessingEngineRunFacet", "1-1-1", name="fusery", version=engine)}


def _job(node: Node, activity: str) -> dict[str, Any]:
    facets = {
        "jobType": _facet(
            "JobTypeJobFacet",
            "2-0-4",
            processingType="BATCH",
            integration="FUSERY",
            jobType=activity.upper(),
        )
    }
    if node.by:
        facets["ownership"] = _facet("OwnershipJobFacet", "1-0-1", owners=[{"name": node.by}])
    return facets


def _datasets(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return what a thing is to OpenLineage, by its id; aliases and deployments are tags of what they hold or run."""
    tags: dict[str, list[dict[str, str]]] = defaultdict(list)
    for node in graph.nodes:
        if node.yanked is not None:
            tags[node.id].append({"key": "yanked", "value": node.yanked, "source": "fusery"})
        for each in node.withdrawals:
            if each.relation != "itself":
                tags[node.id].append({"key": "withdrawal", "value": each.told, "source": "fusery"})
    for edge in graph.edges:
        holder = graph.by_id[edge.source]
        if holder.kind in ("alias", "deployment") and not holder.over:
            tags[edge.target].append({"key": holder.kind, "value": holder.name, "source": "fusery"})
    return {node.id: _dataset(node, tags[node.id]) for node in graph.nodes if node.kind in _TYPES}


def _dataset(node: Node, tags: list[dict[str, str]]) -> dict[str, Any]:
    facets = {"datasetType": _facet("DatasetTypeDatasetFacet", "1-0-1", datasetType=_TYPES[node.kind])}
    if node.digest:
        facets["version"] = _facet(
            "DatasetVersionDatasetFacet", "1-0-1", datasetVersion=f"sha256:{node.digest}"
        )
    if tags:
        facets["tags"] = _facet("TagsDatasetFacet", "1-0-0", tags=tags)
    return {"namespace": "fusery", "name": f"{node.kind}/{_path(node)}", "facets": facets}
