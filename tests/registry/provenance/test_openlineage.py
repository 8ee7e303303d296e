"""OpenLineage events: what the specification asks of them, and that its official client writes the same."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any
from uuid import UUID

import lineage_registry
import pytest
from openlineage.client import event_v2, facet_v2

from fusery.registry import Registry
from fusery.registry.provenance import openlineage
from fusery.registry.records.graph import Graph


@pytest.fixture(scope="module")
def documents(graphs: dict[str, Graph]) -> dict[str, list[dict[str, Any]]]:
    return {reference: openlineage(graph) for reference, graph in graphs.items()}


def test_each_run_starts_and_completes(documents: dict[str, list[dict[str, Any]]]) -> None:
    runs_of_jobs: dict[str, str] = {}
    for events in documents.values():
        assert events
        runs = defaultdict(list)
        for event in events:
            assert str(UUID(event["run"]["runId"])) == event["run"]["runId"]
            assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
            runs[event["run"]["runId"]].append(event)
        for begun, done in runs.values():
            assert [begun["eventType"], done["eventType"]] == ["START", "COMPLETE"]
            assert begun["job"] == done["job"] and begun["inputs"] == done["inputs"]
            assert begun["eventTime"] <= done["eventTime"]
            assert len(done["outputs"]) == 1
        times = [datetime.fromisoformat(event["eventTime"]) for event in events]
        assert times == sorted(times)
        for event in events:  # a run is the same in every export
            run = event["run"]["runId"]
            assert runs_of_jobs.setdefault(event["job"]["name"], run) == run


def test_inputs_of_a_fuse(withdrawn: tuple[Registry, dict[str, str]], graphs: dict[str, Graph]) -> None:
    registry, found = withdrawn
    events = openlineage(graphs[found["sum"]])
    fuse = next(event for event in events if event["job"]["name"] == f"fusing/{found['sum'][:16]}")
    assert {each["name"] for each in fuse["inputs"]} == {
        "adapter/other_v1_20260301",
        f"adapter/{lineage_registry.DENSE}",
        f"adapter/{lineage_registry.CONTINUED}",
        f"base/{registry.bases.show('tiny')['digest'][:16]}",
    }
    [tag] = tags([fuse])
    assert (tag["key"], tag["value"]) == ("yanked", 'leaked <b> "x"')
    alias = {"key": "alias", "value": "course_rec#prod", "source": "fusery"}
    assert alias in tags(openlineage(registry.provenance.lineage("course_rec@2", inputs=True)))


def tags(events: list[dict[str, Any]]) -> list[dict[str, str]]:
    facets = [each["facets"] for event in events for each in event["inputs"]]
    return [tag for facet in facets for tag in facet.get("tags", {}).get("tags", [])]


CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "processing_engine": (facet_v2.processing_engine_run.ProcessingEngineRunFacet, {}),
    "jobType": (facet_v2.job_type_job.JobTypeJobFacet, {}),
    "ownership": (facet_v2.ownership_job.OwnershipJobFacet, {"owners": facet_v2.ownership_job.Owner}),
    "datasetType": (facet_v2.dataset_type_dataset.DatasetTypeDatasetFacet, {}),
    "version": (facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet, {}),
    "tags": (facet_v2.tags_dataset.TagsDatasetFacet, {"tags": facet_v2.tags_dataset.TagsDatasetFacetFields}),
}
"""The official client's class of each facet that is used, and those of the objects in its lists."""


def test_the_official_client_s_classes_take_every_event(documents: dict[str, list[dict[str, Any]]]) -> None:
    """They are made from the specification: they refuse what is unknown or missing."""
    seen = set()
    for event in (event for events in documents.values() for event in events):
        parts = {
            "run": event_v2.Run(**{**event["run"], "facets": facets(event["run"]["facets"])}),
            "job": event_v2.Job(**{**event["job"], "facets": facets(event["job"]["facets"])}),
        }
        for key, kind in (("inputs", event_v2.InputDataset), ("outputs", event_v2.OutputDataset)):
            parts[key] = [kind(**{**each, "facets": facets(each["facets"])}) for each in event[key]]
        fixed = {"eventType": event_v2.RunState(event["eventType"]), **parts}
        event_v2.RunEvent(**{**{key: event[key] for key in event if key != "schemaURL"}, **fixed})
        holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        seen |= {name for holder in holders for name in holder["facets"]}
    assert seen == set(CLASSES)


def facets(given: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, facet in given.items():
        kind, parts = CLASSES[name]
        plain = {key: value for key, value in facet.items() if not key.startswith("_")}
        lists = {key: [part(**each) for each in plain[key]] for key, part in parts.items()}
        found[name] = kind(**plain | lists, producer=facet["_producer"])
        assert facet["_schemaURL"].endswith(found[name]._get_schema().rpartition("/")[2])
    return found
