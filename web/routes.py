"""Routes: what each asks of the client, and those of the operations of the API."""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from functools import cache, partial
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from fusery.registry import Registry
from fusery.registry.api.operation import PAGE, Operation, operations_of
from fusery.registry.api.resource import Resource
from fusery.registry.api.schema import schema_of
from fusery.registry.record import Record
from fusery.registry.records.release import Promotion
from fusery.registry.records.tokens import role_error
from fusery.registry.records.trust import Role
from fusery.registry.wire import LongText, decode, encode

from .auth import (
    NOBODY,
    LocalAuth,
    NotSignedInError,
    RefusedTokenError,
    TokenAuth,
    TooOftenError,
    peer_of,
    principal_of,
    program_of,
)
from .limits import RateLimit
from .rendering import presentable

LOG = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Response | Awaitable[Response]])

API = "/api/v1"
RATE = (50, 400)  # requests of one client a second, and at once
FAILURES = (1, 20)  # the same of requests with an invalid token, for each address


@dataclass(frozen=True, slots=True)
class Route:
    """A route."""

    path: str
    method: str  # `GET`, `HEAD`, `POST` or `PUT`
    role: Role | None  # the required role; None for everybody
    record: Any = None  # the type of its JSON for programs; None for pages and bytes
    sends: str = ""  # the media type of another response to programs
    takes: str = ""  # the media type of a body that is read while it is handled

    @property
    def described(self) -> bool:
        """Return whether the OpenAPI document has it."""
        return self.record is not None or bool(self.sends)


class Routes:
    """The routes of one application."""

    def __init__(self, app: FastAPI, auth: LocalAuth | TokenAuth) -> None:
        self.made: list[Route] = []
        self._app, self._auth = app, auth
        self._rate, self._failures = RateLimit(*RATE), RateLimit(*FAILURES)

    def page(self, path: str, *, role: Role | None = "reader") -> Callable[[Handler], Handler]:
        """Return a decorator for functions that return a page."""
        return self.add("GET", path, role=role, also=["HEAD"])

    def add(
        self,
        method: str,
        path: str,
        *,
        role: Role | None,
        record: Any = None,
        sends: str = "",
        takes: str = "",
        also: list[str] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Return a decorator for functions that handle a route; see `Route`.  `also` lists further methods."""
        route = Route(path, method, role, record, sends, takes)

        def add(handler: Handler) -> Handler:
            summary = (handler.__doc__ or handler.__name__.replace("_", " ")).partition("\n")[0]
            self._app.add_api_route(
                path,
                handler,
                methods=[method, *(also or ())],
                dependencies=[Depends(self._guard(role))],
                response_model=None,
                include_in_schema=route.described,
                summary=summary.rstrip("."),
            )
            self.made.append(route)
            return handler

        return add

    def unhurried(self) -> None:
        """Remove the rate limits, for measurements and tests."""
        self._rate, self._failures = RateLimit(1e9, 1 << 30), RateLimit(1e9, 1 << 30)

    def count_failure(self, request: Request, error: NotSignedInError) -> None:
        """Count a request with an invalid credential, and log it at most as often as such requests are allowed."""
        _require_rate(self._failures, peer_of(request))
        if isinstance(error, RefusedTokenError):
            LOG.warning("refused a token: %s", error.why)

    def _guard(self, role: Role | None) -> Callable[[Request], None]:
        def guard(request: Request) -> None:
            try:
                principal = self._auth.principal(request)
            except NotSignedInError as error:
                if role is not None:
                    self.count_failure(request, error)
                    raise
                principal = NOBODY  # with an ended session one can sign in anew
            else:
                name = principal.name
                _require_rate(self._rate, f"name {name}" if name else f"peer {peer_of(request)}")
            request.state.principal = principal
            if role is not None and principal.role is None:
                raise NotSignedInError("no token given", hint="fusery admin token create NAME --role reader")
            if role is not None and not principal.may(role):
                raise role_error(principal.name, str(principal.role), "this", role)

        return guard


def _require_rate(limit: RateLimit, client: str) -> None:
    if seconds := limit.wait(client):
        raise TooOftenError("too many requests in too short a time", hint=f"wait {math.ceil(seconds)} s")


LONGEST = 10_000  # the maximum length of a string
MOST = 1_000  # the maximum number of entries of a list or mapping
LARGEST, LARGEST_SEED = 2**31 - 1, 2**63 - 1  # whole numbers begin at 0

BYTES = "application/octet-stream"


def add_operations(routes: Routes, registry: Registry) -> None:
    """Add a route for each operation of each resource."""
    for name, resource in vars(registry).items():
        if isinstance(resource, Resource):
            for operation in operations_of(type(resource)):
                _add(routes, registry, name, operation)

    @routes.add("GET", f"{API}/openapi.json", role=None)
    def openapi(request: Request) -> Response:
        return JSONResponse(document(request.app, routes.made))


def _add(routes: Routes, registry: Registry, resource: str, operation: Operation) -> None:
    model, needed = _model(resource, operation), {"limit"} if operation.pages else set[str]()
    needed |= {name for name, item in operation.parameters.items() if item.default is item.empty}

    def answer(request: Request, given: BaseModel) -> Response:
        principal = program_of(request) if operation.writes else principal_of(request)
        values = {name: getattr(given, name) for name in given.model_fields_set | needed}
        record = operation.method(getattr(principal.acting(registry), resource), **values)
        # A refused promotion is an error response whose body is the record with the failed rules.
        refused = operation.writes and getattr(record, "verdict", "passed") != "passed"
        return JSONResponse(presentable(encode(record)), 409 if refused else 200)

    answer.__doc__ = operation.summary
    answer.__annotations__["given"] = model if operation.writes else Annotated[model, Query()]
    method = "POST" if operation.writes else "GET"
    path = f"{API}/{resource}/{operation.name}"
    routes.add(method, path, role=operation.role, record=operation.hints["return"])(answer)


@cache  # pydantic needs milliseconds for each
def _model(resource: str, operation: Operation) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, parameter in operation.parameters.items():
        if name == "reporter":
            continue
        largest = LARGEST_SEED if name == "seed" else LARGEST
        kind = _sent(operation.hints[name], in_query=not operation.writes, largest=largest)
        default = ... if parameter.default is parameter.empty else parameter.default
        if name == "limit" and operation.pages:
            kind, default = Annotated[int, Field(ge=0, le=PAGE)], PAGE
        if default is ... and not operation.writes and get_origin(operation.hints[name]) is Sequence:
            default = ()  # an empty list is omitted from a query
        about = operation.description_of(resource, name) or None
        fields[name] = (Annotated[kind, Field(description=about)], default)
    name = "".join(word.capitalize() for word in f"{resource}-{operation.name}".split("-"))
    config = ConfigDict(extra="forbid", strict=operation.writes, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


def _sent(kind: Any, *, in_query: bool, largest: int = LARGEST) -> Any:
    """Return the type of an argument in a request: records and times are strings."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        several = dict.fromkeys(_sent(arg, in_query=in_query, largest=largest) for arg in args)
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
    pairs = dict(text.partition("=")[::2] for text in texts)
    if len(pairs) != len(texts) or any("=" not in text for text in texts):
        raise ValueError("expected NAME=VALUE with unique names")
    return pairs


_ERROR: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {
                "code": {"type": "string", "description": "Stable; for programs."},
                "message": {"type": "string", "description": "One sentence."},
                "hint": {"type": "string", "description": "What to do; may be empty."},
            },
        }
    },
}
_OF_ERROR = {"$ref": "#/components/schemas/Refusal"}
_TOKEN = {"type": "http", "scheme": "bearer", "description": "What `fusery admin token create` printed."}


def document(app: FastAPI, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the API for programs."""
    made: dict[str, Any] = app.openapi()
    shared: dict[str, object] = {"Refusal": _ERROR}
    for route in routes:
        if not route.described:
            continue
        entry = made["paths"][route.path.replace(":path}", "}")][route.method.lower()]
        schema = schema_of(route.record, "#/components/schemas/{model}") if route.record is not None else {}
        shared |= schema.pop("$defs", {})
        error, done = _content(_OF_ERROR), _content(schema, route.sends or "application/json")
        entry["responses"] = {"200": done, "4XX": error, "5XX": error}
        if route.record is Promotion:
            # A refused promotion is answered with its record, which has the failed rules.
            entry["responses"]["409"] = _content({"anyOf": [schema, _OF_ERROR]})
        if route.sends == BYTES:
            entry["parameters"].append(_header("Range", "One range, as in `bytes=0-1023`.", "string"))
            entry["responses"]["206"] = done
        if route.takes:
            entry["requestBody"] = {"required": True, "content": _content({}, route.takes)["content"]}
        if route.takes == BYTES:
            entry["parameters"] += [
                _header("Upload-Offset", "Where the bytes belong; 0 by default."),
                _header("Upload-Length", "The size of the blob; by default as many bytes as are sent."),
            ]
        if route.role is not None:
            entry["security"], entry["description"] = [{"token": []}], f"Needs the role of {route.role}."
    parts = made.setdefault("components", {})
    parts["schemas"] = parts.get("schemas", {}) | shared
    parts["securitySchemes"] = {"token": _TOKEN}
    version = API.rpartition("/v")[2]
    made["info"] = {"title": "fusery", "version": version, "description": "An adapter registry."}
    return made


def _content(schema: Mapping[str, Any], kind: str = "application/json") -> Mapping[str, object]:
    """Return a response with a schema, or with bytes."""
    shown = {"type": "string", "format": "binary"} if kind == BYTES else schema
    return {
        "description": "Refused." if schema is _OF_ERROR else "Done.",
        "content": {kind: {"schema": shown}},
    }


def _header(name: str, text: str, kind: str = "integer") -> Mapping[str, object]:
    return {"name": name, "in": "header", "description": text, "schema": {"type": kind}}
