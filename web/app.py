"""The application: the pages of a registry, behind the host check."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.exchange.uploads import USUAL, UploadLimits
from fusery.registry.server.request_ids import RequestIds
from fusery.storage.errors import FuseryError

from .answers import refusal, status_of, wants_json
from .bytes import add_reading_pages
from .doors import OwnDoor, TeamDoor
from .entry import add_key, add_sign_in
from .forms import add_forms
from .guard import Caught, Headers, OwnHost
from .limits import BodyLimit
from .operations import add_operations
from .pages import add_pages
from .routes import Routes
from .transfers import add_transfers


def create_app(
    registry: Registry,
    door: OwnDoor | TeamDoor,
    *,
    hosts: Collection[str] = (),
    uploads: UploadLimits = USUAL,
) -> FastAPI:
    """Return the application for a registry.

    Args:
        registry: what the pages are of.
        door: how it is known who asks.
        hosts: names that requests may be for, besides addresses and localhost.
        uploads: how much may be sent here.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Caught, asker=door.asker)
    app.add_middleware(BodyLimit)
    app.add_middleware(OwnHost, hosts=hosts)
    app.add_middleware(Headers)
    app.add_middleware(RequestIds)
    routes = Routes(app, door)
    app.state.routes = routes
    add_operations(routes, registry)
    add_pages(routes, registry)
    add_reading_pages(routes, registry)
    add_forms(routes, registry)
    if isinstance(door, OwnDoor):
        add_key(routes, door)
    else:
        add_sign_in(routes, door)
    add_transfers(routes, registry, uploads)

    @app.exception_handler(FuseryError)
    def refused(request: Request, error: FuseryError) -> Response:
        if door.signs_in and status_of(error) == 401 and request.method == "GET" and not wants_json(request):
            then = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/sign-in?then={quote(then[:1_000], safe='/')}", 303)
        return refusal(request, error)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])[:100] or "the body"
        hint = "JSON, with Content-Type: application/json" if first["loc"][0] == "body" else None
        return refusal(request, BadInputError(f"{where}: {first['msg'][:200]}", hint=hint))

    @app.exception_handler(HTTPException)
    def no_page(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return refusal(request, UnknownReferenceError("there is no such page", hint="/"))
        answer = refusal(request, BadInputError(str(error.detail)[:200]), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    return app
