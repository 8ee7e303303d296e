"""The application: the pages of a registry, behind the host check."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, RegistryError, UnknownReferenceError
from fusery.registry.server.hosts import HostCheck
from fusery.storage.errors import FuseryError

from .answers import refusal
from .guard import Headers
from .pages import pages

LOG = logging.getLogger(__name__)


class UnexpectedError(RegistryError):
    """Something that fusery does not know: an error of its own, or a database edited by other means."""

    code = "unexpected"


def create_app(registry: Registry, *, hosts: Collection[str] = ()) -> FastAPI:
    """Return the application for a registry.

    Args:
        registry: what the pages are of.
        hosts: names that requests may be for, besides addresses and localhost.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
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
        return refusal(request, BadInputError(str(error.detail)[:200]))

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        LOG.error("%s %s: %s", request.method, request.url.path, type(error).__name__)
        return refusal(request, UnexpectedError("these records cannot be shown", hint="fusery audit"))

    return app
