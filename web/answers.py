"""One answer in two forms: a page for people, JSON for programs, from the same record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from markupsafe import Markup

from fusery.registry.provenance.drawing import STYLE
from fusery.registry.record import Record
from fusery.registry.reporting.environment import environment, style
from fusery.storage.errors import FuseryError
from fusery.storage.secrets import masked

if TYPE_CHECKING:
    from jinja2 import Environment

_STATUS = {
    "unknown_reference": 404,
    "ambiguous_reference": 409,
    "already_exists": 409,
    "alias_guarded": 409,
    "database_unavailable": 503,
    "store_unavailable": 503,
    "unreadable_record": 500,
}
"""Status of an error by its code; what is not here is what the asker can do something about."""


def wants_json(request: Request) -> bool:
    """Tell whether who asks prefers JSON to a page: only where it is named, and HTML is not."""
    accepted = request.headers.get("accept", "").lower()
    return "application/json" in accepted and "text/html" not in accepted


def answer(request: Request, template: str, record: Record, **more: Any) -> Response:
    """Return a record as JSON, or as the page that a template makes of it.

    Args:
        request: what was asked.
        template: name of the page's template.
        record: what is to be shown; the page has it as `it`, in JSON's forms.
        more: what only the page has, such as pictures.
    """
    document = record.to_dict()
    if wants_json(request):
        return JSONResponse(document)
    return page(request, template, {"it": document, **more})


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """Return a page of the values that its template shows."""
    text = _environment().get_template(template).render({"path": request.url.path, **values})
    return HTMLResponse(masked(text), status)


def refusal(request: Request, error: FuseryError) -> Response:
    """Return an error as its sentence and its hint."""
    status = _STATUS.get(error.code, 400)
    told = {"code": error.code, "message": masked(error.message), "hint": masked(error.hint or "")}
    if wants_json(request):
        return JSONResponse({"error": told}, status)
    return page(request, "error.html.j2", {"error": told, "status": status}, status)


def style_sheet() -> str:
    """Return what every page looks like: the report's style, that of lineages, and what pages have beside them."""
    return style() + STYLE + _resource("templates/web.css")


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _template(name: str) -> str | None:
    place = files(__package__) / "templates" / name
    return place.read_text(encoding="utf-8") if "/" not in name and place.is_file() else None


@cache
def _environment() -> Environment:
    made = environment(_template)
    made.filters["segment"] = segment
    return made


def segment(text: object) -> Markup:
    """Return a text as one segment of a path; no text gets out of it."""
    return Markup(
        quote(str(text), safe="").replace(".", "%2E")
        if str(text) in (".", "..")
        else quote(str(text), safe="")
    )
