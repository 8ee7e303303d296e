"""Responses: pages for people, errors for people and programs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from fusery.registry.record import plain
from fusery.registry.remote.server import details_of
from fusery.registry.runtime.http_server import NAME
from fusery.storage.errors import FuseryError, visible
from fusery.storage.secrets import masked

from .auth import RequestError, principal_of
from .rendering import environment, presentable

LOG = logging.getLogger(__name__)

_CODES: Mapping[int, str] = {
    403: "role_not_enough",
    404: "unknown_reference blob_missing",
    409: "ambiguous_reference already_exists alias_guarded blobs_missing upload_busy upload_offset",
    413: "upload_too_large",
    500: "record_unreadable plugin_failed",
    503: "database_unavailable database_read_only store_unavailable schema",
    507: "out_of_space",
}
STATUS = {code: status for status, codes in _CODES.items() for code in codes.split()}
STATUS |= {kind.code: kind.status for kind in RequestError.__subclasses__()}  # by code; 400 for others

_NO_DATABASE = "the server cannot use its database"
_UNAVAILABLE = {
    "database_read_only": "the server cannot write to its database",
    "store_unavailable": "the server cannot reach its store",
}
"""Messages for clients about errors with the status 503, by error code."""

RETRY_AFTER = {429: 1, 503: 5}  # seconds in the header `Retry-After`, by status
_LONGEST = 2_000  # the most characters of a message


def wants_json(request: Request) -> bool:
    """Return whether to answer with JSON: the client accepts it and no HTML, or the route is for programs."""
    if request.url.path.startswith("/api/"):
        return True
    accepted = request.headers.get("accept", "").lower()
    return "application/json" in accepted and "text/html" not in accepted


def answer(request: Request, template: str, content: Mapping[str, Any], **more: Any) -> Response:
    """Return the content as JSON, or as HTML from a template, which also has `more`, such as pictures."""
    shown = presentable(plain(dict(content)))
    return JSONResponse(shown) if wants_json(request) else page(request, template, {"it": shown, **more})


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """Return a page of the values that its template shows."""
    shown = {"path": request.url.path, "principal": principal_of(request), "asked": ""}
    text = environment().get_template(template).render({**shown, **values})
    return HTMLResponse(text, status)


def refusal(request: Request, error: FuseryError, status: int | None = None) -> Response:
    """Return the response for an error."""
    status = status or status_of(error)
    message, hint = (visible(masked(text))[:_LONGEST] for text in (error.message, error.hint or ""))
    if status == 503:
        LOG.error("%s (request %s)", message, request.scope.get(NAME))
        # Only the operator may see addresses and paths of databases and stores.
        message, hint = (_UNAVAILABLE.get(error.code, _NO_DATABASE), "try again later; see the server's log")
    shown: dict[str, object] = {"code": error.code, "message": message, "hint": hint}
    if wants_json(request) and status < 500 and (details := details_of(error)):
        shown["details"] = presentable(details)
    answer = (
        JSONResponse({"error": shown}, status)
        if wants_json(request)
        else page(request, "error.html.j2", {"error": shown, "status": status}, status)
    )
    if status in RETRY_AFTER:
        answer.headers["Retry-After"] = str(RETRY_AFTER[status])
    return answer


def status_of(error: FuseryError) -> int:
    """Return the status of an error."""
    return STATUS.get(error.code, 400)
