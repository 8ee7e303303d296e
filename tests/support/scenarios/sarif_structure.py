"""What SARIF 2.1.0 demands of a log, for the properties that fusery writes.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html, the sections in brackets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

LEVELS = {"none", "note", "warning", "error"}
RULE = {"id", "name", "shortDescription", "fullDescription", "help", "defaultConfiguration"}
RESULT = {"ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"}
"""The schema has `additionalProperties: false` everywhere."""


def require_sarif(log: Mapping[str, Any]) -> None:
    assert log.keys() == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"  # 3.13.2
    assert urlsplit(log["$schema"]).scheme == "https"  # 3.13.3
    for run in log["runs"]:  # 3.13.4
        assert run.keys() <= {"tool", "results", "columnKind"}
        assert run["tool"].keys() == {"driver"}  # 3.18.2
        driver = _component(run["tool"]["driver"])
        for result in run["results"]:
            _result(result, driver)


def _component(component: Mapping[str, Any]) -> list[str]:
    assert component.keys() <= {"name", "version", "semanticVersion", "rules"}
    assert component["name"]  # 3.19.8
    for rule in component["rules"]:
        _rule(rule)
    ids = [rule["id"] for rule in component["rules"]]
    assert len(set(ids)) == len(ids)  # 3.19.23
    return ids


def _rule(rule: Mapping[str, Any]) -> None:
    assert rule.keys() <= RULE
    assert rule["id"]  # 3.49.3
    for key in ("shortDescription", "fullDescription", "help"):  # 3.49.9 to 3.49.13
        if key in rule:
            assert rule[key]["text"].endswith(".") or key == "help"
    if "defaultConfiguration" in rule:  # 3.49.14, 3.50.3
        assert rule["defaultConfiguration"]["level"] in LEVELS


def _result(result: Mapping[str, Any], ids: list[str]) -> None:
    assert result.keys() <= RESULT
    assert ids[result["ruleIndex"]] == result["ruleId"]  # 3.27.5, 3.27.6
    assert result["level"] in LEVELS  # 3.27.10
    assert result["message"]["text"]  # 3.11.8
    assert all(isinstance(each, str) for each in result["partialFingerprints"].values())  # 3.27.17
    for location in result["locations"]:  # 3.27.12
        place = location["physicalLocation"]["artifactLocation"]
        assert place.keys() == {"uri"}  # 3.4.3
        assert location["physicalLocation"]["region"] == {"startLine": 1}  # 3.30.5; what GitHub demands
        assert " " not in place["uri"]
        assert place["uri"].isascii()
        for logical in location.get("logicalLocations", []):  # 3.33
            assert logical["fullyQualifiedName"]
