"""The OpenAPI document: the routes for programs, and the JSON Schemas of the records that they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from fusery.registry.api.schema import schema_of
from fusery.registry.records.release import Promotion

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

BYTES = "application/octet-stream"

_RANGE = {
    "name": "Range",
    "in": "header",
    "description": "One range, as in `bytes=0-1023`.",
    "schema": {"type": "string"},
}
_UPLOAD = [
    {
        "name": name,
        "in": "header",
        "description": said,
        "schema": {"type": "integer", "minimum": 0},
    }
    for name, said in (
        ("Upload-Offset", "Where the bytes belong that come; 0 where it is not said."),
        ("Upload-Length", "How many bytes the blob has; as many as come where it is not said."),
    )
]

_TOKEN = {"type": "http", "scheme": "bearer", "description": "What `fusery token create` showed."}


def document(app: FastAPI, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of what programs may ask for."""
    made: dict[str, Any] = app.openapi()
    shared: dict[str, Any] = {"Refusal": _REFUSAL}
    for route in routes:
        if not route.described:
            continue
        entry = made["paths"][route.path.replace(":path}", "}")][route.method.lower()]
        entry["responses"] = {
            "200": _json("Done.", _hoisted(schema_of(route.record), shared))
            if route.record is not None
            else _sent("Done.", route.sends),
            **{
                status: _json("Refused.", {"$ref": "#/components/schemas/Refusal"})
                for status in ("4XX", "5XX")
            },
        }
        if route.record is Promotion:
            # Rules that do not hold are told of by the record of the promotion.
            both = [_hoisted(schema_of(Promotion), shared), {"$ref": "#/components/schemas/Refusal"}]
            entry["responses"]["409"] = _json("Refused, by rules or otherwise.", {"anyOf": both})
        if route.sends == BYTES:
            entry["parameters"].append(_RANGE)
            entry["responses"]["206"] = _sent("A range of it.", BYTES)
        if route.takes:
            entry["requestBody"] = {"required": True, "content": {route.takes: _media(route.takes)}}
        if route.takes == BYTES:
            entry["parameters"] += _UPLOAD
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


def _sent(said: str, kind: str) -> dict[str, Any]:
    return {"description": said, "content": {kind: _media(kind)}}


def _media(kind: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary"} if kind == BYTES else {}}


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
