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
from fusery.registry.exchange.uploads import USUAL
from fusery.registry.runtime.http_server import RequestIds
from fusery.storage.errors import FuseryError

from .answers import refusal, status_of, wants_json
from .auth import LocalAuth, TokenAuth
from .forms import add_forms, add_key, add_sign_in
from .limits import BodyLimit, Guard, Slots
from .pages import add_pages
from .routes import Routes, add_operations
from .transfers import add_transfers


def create_app(registry: Registry, auth: LocalAuth | TokenAuth, *, hosts: Collection[str] = ()) -> FastAPI:
    """Return the application for a registry."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Slots, client_key=auth.client_key)
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, hosts=hosts)
    app.add_middleware(RequestIds)
    routes = Routes(app, auth)
    app.state.routes = routes
    add_operations(routes, registry)
    add_pages(routes, registry)
    add_forms(routes, registry)
    if isinstance(auth, LocalAuth):
        add_key(routes, auth)
    else:
        add_sign_in(routes, auth)
    add_transfers(routes, registry, USUAL)

    @app.exception_handler(FuseryError)
    def refused(request: Request, error: FuseryError) -> Response:
        if auth.signs_in and status_of(error) == 401 and request.method == "GET" and not wants_json(request):
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
