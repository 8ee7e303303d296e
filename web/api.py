# No `from __future__ import annotations`: each act's handler says by its annotation which body it takes, and that type
# is made here, where a text could not name it.
"""Acts for programs, and the document that describes all that programs may ask for."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model

from fusery.registry import Registry
from fusery.registry.releases.promote import Promotion

from .acts import ACTS, Act, cleaned
from .answers import presentable
from .openapi import document
from .routes import API, Routes
from .visitors import program_of

LONGEST = 10_000
"""Characters of a text."""


def add_api(app: FastAPI, routes: Routes, registry: Registry) -> None:
    """Add what programs may do, and the OpenAPI document, after all other routes."""
    for act in ACTS:
        _add(routes, registry, act)

    @routes.page(f"{API}/openapi.json", role=None)
    def openapi() -> Response:
        return JSONResponse(document(app, routes.made))


def _add(routes: Routes, registry: Registry, act: Act) -> None:
    body_of = _body_of(act)

    def done(request: Request, body: body_of) -> Response:  # type: ignore[valid-type]
        visitor = program_of(request)
        values = cleaned(act, body.model_dump())  # type: ignore[attr-defined]
        record = act.do(registry.acting(visitor.name, authenticated=visitor.authenticated), values)
        refused = isinstance(record, Promotion) and record.verdict != "passed"
        return JSONResponse(presentable(record.to_dict()), 409 if refused else 200)

    done.__doc__ = act.said
    routes.post(f"{API}/acts/{act.name}", act.record, role=act.role)(done)


def _body_of(act: Act) -> type[BaseModel]:
    """Return what a program sends for an act."""
    fields: dict[str, Any] = {}
    for field in act.fields:
        said = field.label + (f": {field.said}" if field.said else "")
        needed = {"min_length": 1} if field.required else {"default": ""}
        if field.kind == "pairs":
            fields[field.name] = (dict[str, str], Field(description=said, max_length=1_000))
        elif field.kind == "flag":
            fields[field.name] = (bool, Field(default=False, description=said))
        else:
            fields[field.name] = (str, Field(description=said, max_length=LONGEST, **needed))
    name = "".join(word.capitalize() for word in ("act", *act.name.split("-")))
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)
