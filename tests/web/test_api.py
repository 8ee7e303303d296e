"""What programs may ask for: the document that describes it, and answers that fit it whatever is asked."""

from __future__ import annotations

import os
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from page_server import ask
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fusery.registry import Registry
from fusery.web.app import create_app
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing

SOAK = "FUSERY_SOAK" in os.environ
REQUESTS = 20_000 if SOAK else 200
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def document(address: str) -> Any:
    return ask(address, "/api/v1/openapi.json").json


def test_the_document_is_one(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) > 20
    for operation in operations:
        assert operation["summary"], operation
        assert operation.get("security") in ([{"token": []}], None)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert "$defs" not in str(document)
    fields = document["components"]["schemas"]["EvaluationsRecord"]["properties"]
    assert fields["seed"]["anyOf"][0]["maximum"] >= 2**62


@pytest.mark.slow
def test_whatever_is_asked_is_answered_as_the_document_says(own: Registry) -> None:
    door = LocalAuth("bea")
    app = create_app(own, door)
    app.state.routes.unhurried()
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers={"host": "localhost"})
    operations = [found.ok() for found in schema.get_all_operations()]
    asked = 0
    for operation in operations:

        @seed(15)
        @settings(
            max_examples=-(-REQUESTS // len(operations)),
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask_it(case: Any) -> None:
            nonlocal asked
            asked += 1
            answer = case.call(headers={"authorization": f"Bearer {door.key}", "host": "localhost"})
            case.validate_response(answer, checks=CHECKS)

        ask_it()
    assert asked >= REQUESTS * 0.9
    assert own.upkeep.audit().problems == []


def test_what_the_document_says_of_operations(document: Any) -> None:
    paths = document["paths"]
    blob, binary = paths["/api/v1/blobs/{digest}"], {"type": "string", "format": "binary"}
    stored = {"application/octet-stream": {"schema": binary}}
    assert [parameter["name"] for parameter in blob["get"]["parameters"]] == ["digest", "Range"]
    names = ["digest", "Upload-Offset", "Upload-Length"]
    assert [parameter["name"] for parameter in blob["put"]["parameters"]] == names
    done, error = blob["get"]["responses"]["200"], blob["get"]["responses"]["4XX"]
    assert done["content"] == stored == blob["put"]["requestBody"]["content"]
    assert (done["description"], error["description"]) == ("Done.", "Refused.")
    arrived = blob["put"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(arrived["properties"]) == {"digest", "complete", "bytes"}
    assert blob["put"]["description"] == "Needs the role of publisher."
    answers = {
        path: {code for one in entry.values() for code in one["responses"]} for path, entry in paths.items()
    }
    several = [path for path, codes in answers.items() if {"409", "206"} & codes]
    assert several == ["/api/v1/aliases/promote", "/api/v1/blobs/{digest}"]
    listed = {each["name"]: each for each in paths["/api/v1/adapters/list"]["get"]["parameters"]}
    assert not any(each["required"] for each in listed.values())
    limits = ("limit", 0, 1000, 1000), ("offset", 0, 2**31 - 1, 0)
    for name, least, most, default in limits:
        schema = listed[name]["schema"]
        assert (schema["minimum"], schema["maximum"], schema["default"]) == (least, most, default)
    assert listed["sort"]["schema"]["default"] == "created_at" and listed["sort"]["description"]
    [references] = paths["/api/v1/adapters/compare"]["get"]["parameters"]
    assert (references["required"], references["schema"]["default"]) == (False, [])
    needed = {each["name"]: each["required"] for each in paths["/api/v1/adapters/show"]["get"]["parameters"]}
    assert needed["reference"] is True
