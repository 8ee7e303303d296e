from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import printed_documents
import pytest

from fusery.cli.documents import document_of, documents
from fusery.registry.api.schema import schema_of

from .conftest import every_command, require_refusals

FREE = {"admin schema"}  # what these print has a form that others have laid down


def test_every_command_has_a_schema_and_nothing_else_has() -> None:
    print_json = [
        name for name, command in every_command() if any("--json" in option.opts for option in command.params)
    ]
    assert print_json == list(documents())
    assert {name for name in documents() if document_of(name) is object} == FREE


@pytest.mark.slow
def test_schemas_are_valid_and_describe_each_key() -> None:
    for command in documents():
        schema = schema_of(document_of(command))
        jsonschema.Draft202012Validator.check_schema(schema)
        if command not in FREE:
            objects = list(parts(schema))
            assert objects, f"{command} has no record"
            for each in objects:
                for key, value in each["properties"].items():
                    assert "description" in value or "$ref" in value, f"{command}: {each['title']}.{key}"


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the records of a schema."""
    yield from (each for each in (schema, *schema.get("$defs", {}).values()) if "properties" in each)


def test_schemas_are_printed(stocked: Any) -> None:
    assert json.loads(stocked("admin", "schema", "alias", "list").out) == schema_of(document_of("alias list"))
    schema = stocked("admin", "schema", "list", "--json").json
    assert schema == schema_of(document_of("list"))
    jsonschema.validate(stocked("list", "--json").json, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"name": 1}], schema)
    assert stocked("admin", "schema").out.split("\n")[: len(documents())] == list(documents())
    assert stocked("admin", "schema", "--json").json.keys() == {*documents()}
    require_refusals(
        stocked,
        ("admin schema base", "fusery admin schema"),
        ("admin schema zzzz", "fusery admin schema"),
    )


def test_a_document_that_violates_its_schema_is_reported(stocked: Any) -> None:
    [row] = stocked("base", "list", "--json").json
    printed_documents.require("base list", [row])
    for document, said in (
        ([{"nmae": "x"}], "base list"),
        ([row | {"names": 1}], "base list"),
        ({}, "base list"),
        (None, "base list"),
        ([row | {"further": 1}], "'further' was unexpected"),
        ([row | {"created_at": "today"}], "date-time"),
    ):
        with pytest.raises(AssertionError, match="does not match its schema") as caught:
            printed_documents.require("base list", document)
        assert said in str(caught.value), document
