"""OpenLineage events: what the specification asks of them, and its own schemas where they are at hand."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import lineages
import pytest
from referencing import Registry as Schemas
from referencing import Resource

from fusery.registry import Registry
from fusery.registry.lineage import openlineage

SPEC = Path(__file__).resolve().parents[2] / "data" / "openlineage"


def documents(registry: Registry, found: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    references = [*found.values(), "tiny", "here", "few", "dataset:courses", f"dataset:{lineages.ODD}"]
    return {each: openlineage(registry.lineage(each, complete=True)) for each in references}


def test_each_run_starts_and_completes(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    for events in documents(*withdrawn).values():
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


def test_what_went_into_a_fuse(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    registry, found = withdrawn
    events = openlineage(registry.lineage(found["sum"], complete=True))
    fuse = next(event for event in events if event["job"]["name"] == f"fusing/{found['sum'][:16]}")
    assert {each["name"] for each in fuse["inputs"]} == {
        "adapter/other_v1_20260301",
        f"adapter/{lineages.DENSE}",
        f"adapter/{lineages.CONTINUED}",
        f"base/{registry.base('tiny')['digest'][:16]}",
    }
    tags = {
        tag["key"]: tag["value"]
        for each in fuse["inputs"]
        for tag in each["facets"].get("tags", {}).get("tags", [])
    }
    assert tags == {"yanked": 'leaked <b> "x"'}
    whole = openlineage(registry.lineage("course_rec@2", complete=True))
    assert any(
        tag == {"key": "alias", "value": "course_rec#prod", "source": "fusery"}
        for event in whole
        for each in event["inputs"]
        for tag in each["facets"].get("tags", {}).get("tags", [])
    )


def test_a_run_is_the_same_in_every_export(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    registry, found = withdrawn
    ids = [
        {event["job"]["name"]: event["run"]["runId"] for event in events}
        for events in documents(registry, found).values()
    ]
    merged: dict[str, str] = {}
    for each in ids:
        assert all(merged.setdefault(job, run) == run for job, run in each.items())


@pytest.mark.skipif(not SPEC.is_dir(), reason="the specification's schemas are not in tests/data/openlineage")
def test_events_fit_the_published_schemas(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    """OpenLineage.json for the event, and for each facet the schema that its `_schemaURL` names."""
    published = {}
    for path in SPEC.rglob("*.json"):
        schema = json.loads(path.read_text(encoding="utf-8"))
        published[schema["$id"]] = Resource.from_contents(schema)
    schemas = Schemas().with_resources(published.items())
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER

    def check(value: Any, url: str) -> list[str]:
        validator = jsonschema.Draft202012Validator({"$ref": url}, registry=schemas, format_checker=formats)
        return [error.message for error in validator.iter_errors(value)]

    seen = set()
    for events in documents(*withdrawn).values():
        for event in events:
            assert check(event, event["schemaURL"]) == []
            assert check(event, event["schemaURL"].partition("#")[0]) == []
            for name, facet in _facets(event):
                assert check(facet, facet["_schemaURL"]) == [], name
                seen.add(name)
    assert seen == {"processing_engine", "jobType", "ownership", "datasetType", "version", "tags"}
    assert check({**event, "run": {}}, event["schemaURL"])  # they can refuse
    assert check({"_producer": "x"}, f"{facet['_schemaURL']}")


def _facets(event: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    return [pair for holder in holders for pair in holder["facets"].items()]
