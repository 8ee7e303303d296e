"""The OpenAPI document: the routes for programs, and the JSON Schemas of the records that they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from fusery.registry.api.schema import schema_of
from fusery.registry.releases.promote import Promotion

from .routes import API, Route

_REFUSAL: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {
                "code": {"type": "string", "description": "Stable; what programs look at."},
                "message": {"type": "string", "description": "One sentence."},
                "hint": {"type": "string", "description": "What to do; may be empty."},
            },
        }
    },
}

_TOKEN = {"type": "http", "scheme": "bearer", "description": "What `fusery token create` showed."}


def document(app: FastAPI, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of what programs may ask for."""
    made: dict[str, Any] = app.openapi()
    shared: dict[str, Any] = {"Refusal": _REFUSAL}
    for route in routes:
        if route.record is None:
            continue
        entry = made["paths"][route.path.replace(":path}", "}")][route.method.lower()]
        entry["responses"] = {
            "200": _json("Done.", _hoisted(schema_of(route.record), shared)),
            **{
                status: _json("Refused.", {"$ref": "#/components/schemas/Refusal"})
                for status in ("4XX", "5XX")
            },
        }
        if route.record is Promotion:
            # Rules that do not hold are told of by the record of the promotion.
            both = [_hoisted(schema_of(Promotion), shared), {"$ref": "#/components/schemas/Refusal"}]
            entry["responses"]["409"] = _json("Refused, by rules or otherwise.", {"anyOf": both})
        if route.role is not None:
            entry["security"] = [{"token": []}]
            entry["description"] = f"Needs the role of {route.role}."
    parts = made.setdefault("components", {})
    parts["schemas"] = parts.get("schemas", {}) | shared
    parts["securitySchemes"] = {"token": _TOKEN}
    made["info"] = {
        "title": "fusery",
        "version": API.rpartition("/v")[2],
        "description": "An adapter registry.",
    }
    return made


def _json(said: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def _hoisted(schema: dict[str, Any], shared: dict[str, Any]) -> Any:
    """Return a schema that refers to the document's shared ones, and add to these what it had of its own."""
    for name, each in schema.pop("$defs", {}).items():
        shared[name] = _referring(each)
    return _referring(schema)


def _referring(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: each.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _referring(each)
            for key, each in value.items()
        }
    return [_referring(each) for each in value] if isinstance(value, list) else value
