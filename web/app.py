"""The application: the pages of a registry, behind the host check."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.server.hosts import HostCheck
from fusery.storage.errors import FuseryError

from .answers import refusal
from .guard import Caught, Headers
from .pages import pages


def create_app(registry: Registry, *, hosts: Collection[str] = ()) -> FastAPI:
    """Return the application for a registry.

    Args:
        registry: what the pages are of.
        hosts: names that requests may be for, besides addresses and localhost.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Caught)
    app.add_middleware(HostCheck, hosts=hosts)
    app.add_middleware(Headers)
    app.include_router(pages(registry))

    @app.exception_handler(FuseryError)
    def refused(request: Request, error: FuseryError) -> Response:
        return refusal(request, error)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])[:100]
        return refusal(request, BadInputError(f"{where}: {first['msg'][:200]}"))

    @app.exception_handler(HTTPException)
    def no_page(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return refusal(request, UnknownReferenceError("there is no such page", hint="/"))
        answer = refusal(request, BadInputError(str(error.detail)[:200]), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    return app
