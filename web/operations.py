# No `from __future__ import annotations`: the handlers' annotations are types made at run time, which FastAPI
# could not resolve from strings.
"""The HTTP API: one route for each operation, GET for reads and POST for writes."""

import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from fusery.registry import Registry
from fusery.registry.api.operation import Operation, operations_of
from fusery.registry.api.resource import Resource
from fusery.registry.record import Record
from fusery.registry.wire import LongText, decode, encode

from .answers import presentable
from .openapi import document
from .routes import API, Routes
from .visitors import program_of, visitor_of

LONGEST = 10_000
"""The maximum length of a string."""

MOST = 1_000
"""The maximum number of entries of a list or mapping."""

LARGEST, LARGEST_SEED = 2**31 - 1, 2**63 - 1
"""Whole numbers begin at 0."""


def add_operations(routes: Routes, registry: Registry) -> None:
    """Add a route for each operation of each resource."""
    for name, resource in vars(registry).items():
        if isinstance(resource, Resource):
            for operation in operations_of(type(resource)):
                _add(routes, registry, name, operation)

    @routes.get(f"{API}/openapi.json", role=None)
    def openapi(request: Request) -> Response:
        return JSONResponse(document(request.app, routes.made))


def _add(routes: Routes, registry: Registry, resource: str, operation: Operation) -> None:
    taken, path = _model(resource, operation), f"{API}/{resource}/{operation.name}"

    def answer(request: Request, given: BaseModel) -> Response:
        visitor = program_of(request) if operation.writes else visitor_of(request)
        acting = registry.acting(
            visitor.name, authenticated=visitor.authenticated, role=visitor.role or "reader"
        )
        needed = {name for name, each in operation.parameters.items() if each.default is each.empty}
        values = {name: getattr(given, name) for name in given.model_fields_set | needed}
        record = operation.method(getattr(acting, resource), **values)
        # A refused promotion is an error response whose body is the record with the failed rules.
        refused = operation.writes and getattr(record, "verdict", "passed") != "passed"
        return JSONResponse(presentable(encode(record)), 409 if refused else 200)

    returned = operation.hints["return"]
    if operation.writes:

        def write(request: Request, given: taken) -> Response:  # type: ignore[valid-type]
            return answer(request, given)

        write.__doc__ = operation.summary
        routes.post(path, returned, role=operation.role)(write)
    else:

        def read(request: Request, given: Annotated[taken, Query()]) -> Response:  # type: ignore[valid-type]
            return answer(request, given)

        read.__doc__ = operation.summary
        routes.read(path, returned, role=operation.role)(read)


def _model(resource: str, operation: Operation) -> type[BaseModel]:
    """Return the model of an operation's request."""
    fields: dict[str, Any] = {}
    for name, parameter in operation.parameters.items():
        if name == "reporter":
            continue
        largest = LARGEST_SEED if name == "seed" else LARGEST
        kind = _sent(operation.hints[name], in_query=not operation.writes, largest=largest)
        default = ... if parameter.default is parameter.empty else parameter.default
        if default is ... and not operation.writes and get_origin(operation.hints[name]) is Sequence:
            default = ()  # an empty list is omitted from a query
        fields[name] = (kind, default)
    name = "".join(word.capitalize() for word in f"{resource}-{operation.name}".split("-"))
    config = ConfigDict(extra="forbid", strict=operation.writes, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


def _sent(kind: Any, *, in_query: bool, largest: int = LARGEST) -> Any:
    """Return the type of an argument in a request: records and times are strings."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        several = dict.fromkeys(_sent(each, in_query=in_query, largest=largest) for each in args)
        return Union[tuple(several)]  # noqa: UP007 -- made from a tuple
    if kind is int:
        return Annotated[int, Field(ge=0, le=largest)]
    if kind is LongText:
        return Annotated[str, Field(max_length=10_000_000)]
    is_record = isinstance(kind, type) and issubclass(kind, Record)
    if kind in (str, datetime, Record) or (is_record and kind.REFERENCE):
        return Annotated[str, Field(max_length=LONGEST)]
    if isinstance(kind, type) and is_dataclass(kind):
        return Annotated[dict[str, Any], AfterValidator(partial(decode, kind))]
    made = origin or kind
    if isinstance(made, type) and issubclass(made, Mapping):
        of = _sent(args[1], in_query=in_query) if args else Any
        if in_query:
            return Annotated[list[str], Field(max_length=MOST), AfterValidator(_pairs)]
        return Annotated[dict[str, of], Field(max_length=MOST)]  # type: ignore[valid-type]
    if isinstance(made, type) and issubclass(made, Collection) and not issubclass(made, str):
        return Annotated[list[_sent(args[0], in_query=in_query)], Field(max_length=MOST)]  # type: ignore[misc]
    return kind


def _pairs(texts: list[str]) -> dict[str, str]:
    found = dict(text.partition("=")[::2] for text in texts)
    if len(found) != len(texts) or any("=" not in text for text in texts):
        raise ValueError("expected NAME=VALUE with unique names")
    return found
