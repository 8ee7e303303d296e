"""What programs may ask for: the document that describes it, and answers that fit it whatever is asked."""

from __future__ import annotations

import os
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from page_addresses import places
from page_server import ask
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fusery.registry import Registry
from fusery.web.app import create_app
from fusery.web.doors import OwnDoor

pytestmark = pytest.mark.timing

JSON = {"accept": "application/json"}
HTML = {"accept": "text/html"}
SOAK = "FUSERY_SOAK" in os.environ
REQUESTS = 20_000 if SOAK else 600
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
        assert operation["security"] == [{"token": []}]
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert "$defs" not in str(document)


def test_programs_get_what_the_pages_have(shown: Registry, address: str, document: Any) -> None:
    schemas = {"components": document["components"]}
    checked = 0
    for name, path in places(shown).items():
        at = "/tasks" + path[1:] if path.partition("?")[0] == "/" else path
        page, program = ask(address, path, **JSON), ask(address, "/api/v1" + at, **HTML)
        assert (page.status, page.text) == (program.status, program.text), name
        assert program.headers["content-type"] == "application/json"
        route = _route(document, "/api/v1" + at.partition("?")[0])
        if program.status == 200:
            content = document["paths"][route]["get"]["responses"]["200"]["content"]
            schema = {**content["application/json"]["schema"], **schemas}
            jsonschema.Draft202012Validator(schema).validate(program.json)
            checked += 1
    assert checked > 20


def _route(document: Any, path: str) -> str:
    """Return the route of an address: the one with the longest common beginning."""
    found = [route for route in document["paths"] if path.startswith(route.partition("{")[0])]
    return max(found, key=len) if found else ""


@pytest.mark.slow
def test_whatever_is_asked_is_answered_as_the_document_says(own: Registry) -> None:
    door = OwnDoor("bea")
    app = create_app(own, door)
    app.state.routes.unhurried()
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers={"host": "localhost"})
    operations = [found.ok() for found in schema.get_all_operations()]
    asked = 0
    for operation in operations:

        @seed(15)
        @settings(
            max_examples=REQUESTS // len(operations),
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
