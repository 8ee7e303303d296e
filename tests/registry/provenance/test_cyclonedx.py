"""The bill of materials: the library's strict validator, which holds it against the published schema of 1.6."""

from __future__ import annotations

import json
import sys
from typing import Any

import lineage_registry
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from fusery.registry import Registry
from fusery.registry.errors import MissingExtraError

Everything = tuple[Registry, dict[str, str]]


def invalid(document: dict[str, Any]) -> Any:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


def test_every_kind_of_record(withdrawn: Everything) -> None:
    registry, found = withdrawn
    serials = set()
    for name, reference in found.items():
        made = registry.provenance.attest(reference, form="cyclonedx")
        assert invalid(made.document) is None, name
        assert registry.provenance.attest(reference, form="cyclonedx").data == made.data, name
        assert _refs_are_unique(made.document)
        serials.add(made.document["serialNumber"])
    assert len(serials) == len(found)


def _refs_are_unique(document: dict[str, Any]) -> bool:
    found: list[str] = []
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found += [value["bom-ref"]] if "bom-ref" in value else []
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return len(found) == len(set(found))


def test_what_a_sum_descends_from(withdrawn: Everything) -> None:
    registry, found = withdrawn
    document = registry.provenance.attest(found["sum"], form="cyclonedx").document
    component = document["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    ancestors = {each["name"]: each for each in component["pedigree"]["ancestors"]}
    assert set(ancestors) == {"tiny", "other_v1_20260301", lineage_registry.DENSE, lineage_registry.CONTINUED}
    assert ancestors[lineage_registry.CONTINUED]["licenses"] == [{"license": {"id": "MIT"}}]
    assert ancestors["other_v1_20260301"]["licenses"] == [{"license": {"name": "our own & <odd>"}}]
    files = {each["name"]: each["hashes"] for each in ancestors[lineage_registry.DENSE]["components"]}
    shown = registry.adapters.show("course_rec@1")["files"]
    assert files == {file["path"]: [{"alg": "SHA-256", "content": file["sha256"]}] for file in shown}
    weights = {"other_v1_20260301": "1.0", lineage_registry.DENSE: "-1.0", lineage_registry.CONTINUED: "0.5"}
    for name, weight in weights.items():
        assert {"name": "fusery:weight", "value": weight} in ancestors[name]["properties"]
    datasets = {each["name"]: each["bom-ref"] for each in document["components"]}
    assert set(datasets) == {"courses", lineage_registry.ODD}
    card = component["modelCard"]
    assert {each["ref"] for each in card["modelParameters"]["datasets"]} == set(datasets.values())
    assert any(
        "contains the weights of course_rec_v2_20260201" in limit and "leaked" in limit
        for limit in card["considerations"]["technicalLimitations"]
    )
    metrics = {each["type"]: each["value"] for each in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert 0.9 < float(metrics["fidelity of the fuse: retained"]) <= 1.01
    sliced = [each for each in card["quantitativeAnalysis"]["performanceMetrics"] if "slice" in each]
    assert {each["value"] for each in sliced} == {"0.61", "0.42"}


def test_the_extra_is_named(withdrawn: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.spdx", None)
    with pytest.raises(MissingExtraError) as raised:
        withdrawn[0].provenance.attest("course_rec@1", form="cyclonedx")
    assert "fusery[bom]" in (raised.value.hint or "")
