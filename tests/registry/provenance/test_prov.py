"""PROV-JSON: the W3C submission's schema, and the library that reads it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import lineage_registry
import prov.model
import pytest

from fusery.registry import Registry
from fusery.registry.provenance import prov as as_prov
from fusery.registry.records.graph import Graph


@pytest.fixture(scope="module")
def schema() -> Any:
    """The submission's, with the one misspelling of it corrected by nobody: we write no `wasEndedBy`."""
    path = files(prov) / "tests" / "schemas" / "prov-json.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)
    return validator(schema, format_checker=validator.FORMAT_CHECKER)


def test_documents_are_valid_and_round_trip(graphs: dict[str, Graph], schema: Any) -> None:
    for reference, graph in graphs.items():
        document = as_prov(graph)
        text = json.dumps(document, allow_nan=False)
        assert not [error.message for error in schema.iter_errors(json.loads(text))], reference
        read = prov.model.ProvDocument.deserialize(content=text, format="json")
        again = prov.model.ProvDocument.deserialize(content=read.serialize(format="json"), format="json")
        assert again == read
        assert len(list(read.get_records(prov.model.ProvEntity))) == len(document["entity"]), reference
        activities = list(read.get_records(prov.model.ProvActivity))
        assert len(activities) == len(document.get("activity", {}))
    # The schema can refuse.
    assert list(schema.iter_errors({**document, "nonsense": {}}))
    assert list(schema.iter_errors({**document, "entity": {"fusery:x": {"prov:label": {"$": 1, "q": 2}}}}))


def test_agents_activities_and_times(
    withdrawn: tuple[Registry, dict[str, str]], graphs: dict[str, Graph]
) -> None:
    registry, found = withdrawn
    document = json.dumps(as_prov(graphs[found["bundle"]]))
    read = prov.model.ProvDocument.deserialize(content=document, format="json")
    elements = read.get_records(prov.model.ProvElement)
    labels = {str(record.identifier): str(record.label) for record in elements}
    usages = read.get_records(prov.model.ProvUsage)
    used = {(labels[str(use.args[0])], labels[str(use.args[1])]) for use in usages}
    fused = f"{lineage_registry.CONTINUED} (keep)"
    assert (f"fusing of {fused}", lineage_registry.CONTINUED) in used
    assert (f"fusing of {fused}", "tiny") in used
    assert ("packing of model out", fused) in used
    assert ("deployment of eu/ranker", "model out") in used
    fusing = next(
        activity
        for activity in read.get_records(prov.model.ProvActivity)
        if str(activity.label) == f"fusing of {fused}"
    )
    node = next(node for node in registry.provenance.lineage(found["bundle"]).nodes if node.name == fused)
    assert (fusing.get_endTime() - fusing.get_startTime()).total_seconds() == pytest.approx(
        node.facts["seconds"], abs=1e-3
    )
    agents = {str(agent.label) for agent in read.get_records(prov.model.ProvAgent)}
    assert agents == {node.by}
    assert found["bundle"] not in document  # no path of this machine
