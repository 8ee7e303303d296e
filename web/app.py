"""The application: the pages of a registry, what each address shows, behind the host check."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from starlette.exceptions import HTTPException

from fusery.registry import Registry
from fusery.registry.charts.curves import curves_chart
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.exchange.uploads import USUAL
from fusery.registry.provenance.drawing import svg
from fusery.registry.runtime.http_server import RequestIds
from fusery.storage.errors import FuseryError

from . import sheets
from .answers import answer, refusal, status_of, wants_json
from .auth import LocalAuth, TokenAuth
from .forms import add_forms, add_key, add_sign_in
from .limits import BodyLimit, Guard, Slots
from .rendering import segment, style_sheet
from .routes import Routes, add_operations
from .sheets import Sheet, page_of
from .transfers import add_transfers

Text = Annotated[str | None, Query(max_length=2_000)]
Whole = Annotated[int, Query(ge=0, le=10**9)]


def add_pages(routes: Routes, registry: Registry) -> None:
    """Add the pages of a registry."""

    @routes.page("/")
    def start(request: Request, after: Text = None, q: Text = None) -> Response:
        return shown(request, sheets.start_sheet(registry, after=after, holding=q))

    @routes.page("/tasks/{task}")
    def one_task(
        request: Request, task: str, where: Text = None, sort: Text = None, offset: Whole = 0
    ) -> Response:
        by, problem, versions = sort or "version:desc", None, []
        try:
            versions = registry.adapters.list(
                task=task, where=where or None, sort=by, limit=sheets.PAGE + 1, offset=offset
            )
        except BadInputError as error:
            registry.adapters.list(task=task, limit=1)  # that there is no such task comes first
            if wants_json(request):
                raise
            problem = error
        sheet = sheets.task_sheet(
            registry, task, versions, where=where or None, sort=by, offset=offset, problem=problem
        )
        made = shown(request, sheet)
        made.status_code = 200 if problem is None else 400
        return made

    @routes.page("/adapters/{reference:path}")
    def adapter(request: Request, reference: str) -> Response:
        return shown(request, sheets.adapter_sheet(registry, reference))

    @routes.page("/compare")
    def compare(request: Request, ref: Annotated[list[str], Query(max_length=50)]) -> Response:
        content = registry.adapters.compare(list(dict.fromkeys(ref)))
        curves = [
            {"version": name, "points": [point.to_dict() for point in points]}
            for name, points in content.curves.items()
            if points
        ]
        picture = curves_chart("curves", {"task": "several adapters", "curves": curves}) if curves else None
        return answer(request, "compare.html.j2", content, curves=curves, picture=picture)

    @routes.page("/aliases/{task}/{name}")
    def alias(request: Request, task: str, name: str, offset: Whole = 0) -> Response:
        return shown(request, sheets.alias_sheet(registry, task, name, offset))

    @routes.page("/bases")
    def bases(request: Request) -> Response:
        return answer(request, "bases.html.j2", {"bases": registry.bases.list()})

    @routes.page("/bases/{name:path}")
    def base(request: Request, name: str, offset: Whole = 0) -> Response:
        content = registry.bases.show(name, limit=sheets.PAGE, offset=offset)
        return answer(request, "base_model.html.j2", content, offset=offset)

    @routes.page("/fused")
    def all_fused(request: Request, offset: Whole = 0) -> Response:
        models = registry.fused.list(limit=sheets.PAGE + 1, offset=offset)
        content = {**page_of("models", models, offset), "cache": registry.cache.contents()}
        return answer(request, "all_fused.html.j2", content)

    @routes.page("/fused/{key}")
    def fused(request: Request, key: str) -> Response:
        return shown(request, sheets.fused_sheet(registry, key))

    @routes.add("GET", "/pictures/lineage/{reference:path}", role="reader")
    def lineage_picture(reference: str) -> Response:
        """Draw the lineage of a thing, for pages that show it beside others."""
        graph = sheets.lineage_of(registry, reference)
        if len(graph.nodes) > sheets.DRAWN:
            raise BadInputError("there are too many things for a picture", hint="its page has them in words")
        return Response(svg(graph), media_type="image/svg+xml")

    @routes.page("/lineage/{reference:path}")
    def lineage(request: Request, reference: str) -> Response:
        return shown(request, sheets.lineage_sheet(registry, reference))

    @routes.page("/places")
    def places(request: Request, at: Text = None, offset: Whole = 0) -> Response:
        running = registry.deployments.list(at=at or None, limit=sheets.PAGE + 1, offset=offset)
        content = {"at": at or None, **page_of("deployments", running, offset)}
        return answer(request, "places.html.j2", content)

    @routes.page("/log")
    def log(
        request: Request,
        reference: Text = None,
        action: Text = None,
        since: Text = None,
        before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    ) -> Response:
        filters: Mapping[str, Any] = {
            "reference": reference or None,
            "action": action or None,
            "since": since or None,
        }
        rows = registry.upkeep.log(**filters, before=before, limit=sheets.PAGE + 1)
        events = rows[-sheets.PAGE :][::-1]
        content = {**filters, "events": events, "next": events[-1].seq if len(rows) > sheets.PAGE else None}
        return answer(request, "log.html.j2", content)

    @routes.page("/search")
    def search(request: Request, q: Annotated[str, Query(max_length=500)] = "") -> Response:
        content = registry.search(q)
        alone = [(kind, name) for kind in ("adapters", "bases", "tasks", "fused") for name in content[kind]]
        if len(alone) == 1 and "text/html" in request.headers.get("accept", ""):
            [(kind, name)] = alone
            return RedirectResponse(f"/{kind}/{segment(name)}", 303)
        return answer(request, "search.html.j2", content, asked=q)

    @routes.page("/style.css", role=None)
    def style() -> Response:
        return PlainTextResponse(
            style_sheet(), media_type="text/css", headers={"Cache-Control": "private, max-age=300"}
        )


def shown(request: Request, sheet: Sheet) -> Response:
    """Return a sheet as a page, or as JSON."""
    return answer(request, sheet.template, sheet.content, **sheet.more)


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
