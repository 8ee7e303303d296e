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


@pytest.fixture(scope="module")
def schema() -> Any:
    """The submission's, with the one misspelling of it corrected by nobody: we write no `wasEndedBy`."""
    path = files(prov) / "tests" / "schemas" / "prov-json.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)
    return validator(schema, format_checker=validator.FORMAT_CHECKER)


def documents(registry: Registry, found: dict[str, str]) -> dict[str, Any]:
    references = [
        *found.values(),
        "tiny",
        "here",
        "few",
        "dataset:courses",
        f"dataset:{lineage_registry.ODD}",
    ]
    return {each: as_prov(registry.provenance.lineage(each, inputs=True)) for each in references}


def test_documents_are_valid_and_round_trip(withdrawn: tuple[Registry, dict[str, str]], schema: Any) -> None:
    for reference, document in documents(*withdrawn).items():
        text = json.dumps(document, allow_nan=False)
        assert not [error.message for error in schema.iter_errors(json.loads(text))], reference
        read = prov.model.ProvDocument.deserialize(content=text, format="json")
        again = prov.model.ProvDocument.deserialize(content=read.serialize(format="json"), format="json")
        assert again == read
        entities = list(read.get_records(prov.model.ProvEntity))
        activities = list(read.get_records(prov.model.ProvActivity))
        assert len(entities) == len(document["entity"]), reference
        assert len(activities) == len(document.get("activity", {}))


def test_the_schema_can_refuse(withdrawn: tuple[Registry, dict[str, str]], schema: Any) -> None:
    document = as_prov(withdrawn[0].provenance.lineage("course_rec@2", inputs=True))
    assert list(schema.iter_errors({**document, "nonsense": {}}))
    assert list(schema.iter_errors({**document, "entity": {"fusery:x": {"prov:label": {"$": 1, "q": 2}}}}))


def test_who_made_what_of_what_and_when(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    registry, found = withdrawn
    read = prov.model.ProvDocument.deserialize(
        content=json.dumps(as_prov(registry.provenance.lineage(found["bundle"], inputs=True))),
        format="json",
    )
    labels = {
        str(record.identifier): str(record.label) for record in read.get_records(prov.model.ProvElement)
    }
    used = {
        (labels[str(use.args[0])], labels[str(use.args[1])]) for use in read.get_records(prov.model.ProvUsage)
    }
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
    assert found["bundle"] not in json.dumps(
        as_prov(registry.provenance.lineage(found["bundle"]))
    )  # no path of this machine
