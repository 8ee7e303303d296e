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
