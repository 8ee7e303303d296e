"""HTTP: OpenAI's paths, errors in OpenAI's form, `/health` and `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Lifespan

from ..registry.runtime import http_server as request_ids
from ..registry.runtime.errors import Refusal
from ..registry.runtime.http_server import HostCheck
from .keys import Access
from .responses import Completions
from .schemas import ChatBody, TextBody
from .service import CONTENT_TYPE, Service


def create_app(
    service: Service,
    lifespan: Lifespan[FastAPI] | None = None,
    *,
    hosts: Collection[str] = (),
    loading: Callable[[FastAPI], None] | None = None,
) -> FastAPI:
    """Return the application for a service that has been started."""
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(HostCheck, hosts=hosts)
    app.add_middleware(request_ids.RequestIds)
    created = int(time.time())

    def access(request: Request) -> Access:
        return service.keys.authenticate(request.headers.get("authorization"))

    @app.get("/health")
    async def health() -> Response:
        alive = service.engine.alive
        keys = {} if service.keys.usable else {"keys": "unusable"}
        return JSONResponse({"status": "ok" if alive else "dead"} | keys, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        tenant = access(request).tenant
        if tenant is not None and not tenant.metrics:
            raise Refusal(403, "this key may not read the metrics", code="forbidden")
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        tenant = access(request).tenant
        # Tenants that may load adapters see all models.
        loads = loading is not None and (tenant is None or tenant.loads)
        listed = [_model(service, name, created) for name in service.table.names(None if loads else tenant)]
        return JSONResponse({"object": "list", "data": listed, "loads": loads})

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        tenant = access(request).tenant
        service.table.choose(name, tenant, None)
        return JSONResponse(_model(service, name, created))

    chat, text = Completions(service, ChatBody), Completions(service, TextBody)
    if loading is not None:
        loading(app)
    app.router.routes += [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
    ]

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        service.metrics.refused.labels(error.status).inc()
        return JSONResponse(error.document, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        refusal = Refusal(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")
        return JSONResponse(refusal.document, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # Starlette logs the traceback. This response bypasses all middleware.
        name = request_ids.NAME
        id_header = {name: request.scope[name]} if name in request.scope else {}
        return JSONResponse(Refusal(500, "internal error").document, 500, headers=id_header)

    return app


def _model(service: Service, name: str, created: int) -> dict[str, object]:
    table = service.table
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "fusery",
        "root": table.document.base.name,
        "versions": table.versions(name),
        "digest": table.digest(name),
    }
