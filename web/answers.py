"""Responses: pages for people, errors for people and programs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from markupsafe import escape

from fusery.registry.errors import (
    AliasGuardedError,
    AlreadyExistsError,
    AmbiguousReferenceError,
    BlobsMissingError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    RoleError,
    SchemaError,
    UnknownReferenceError,
    UnreadableRecordError,
    UploadBusyError,
    UploadOffsetError,
    UploadTooLargeError,
)
from fusery.registry.provenance.drawing import STYLE
from fusery.registry.record import plain
from fusery.registry.remote.failures import details_of
from fusery.registry.reporting.environment import environment, style
from fusery.registry.reporting.facts import RecordsDamagedError
from fusery.registry.server.request_ids import NAME
from fusery.storage.errors import BlobMissingError, FuseryError, OutOfSpaceError, StoreUnavailableError
from fusery.storage.plugins import PluginError
from fusery.storage.secrets import masked

from .acts import BY_NAME
from .addresses import segment
from .visitors import (
    FormError,
    HostError,
    LengthError,
    NotSignedInError,
    TooMuchError,
    TooOftenError,
    TooSlowError,
    visitor_of,
)

if TYPE_CHECKING:
    from jinja2 import Environment

LOG = logging.getLogger(__name__)

UNEXPECTED = "unexpected"
"""Code of what fusery does not know: an error of its own, or a database edited by other means."""

STATUS = {
    UnknownReferenceError.code: 404,
    AmbiguousReferenceError.code: 409,
    AlreadyExistsError.code: 409,
    AliasGuardedError.code: 409,
    DatabaseUnavailableError.code: 503,
    DatabaseReadOnlyError.code: 503,
    StoreUnavailableError.code: 503,
    SchemaError.code: 503,
    UnreadableRecordError.code: 500,
    RecordsDamagedError.code: 500,
    PluginError.code: 500,
    NotSignedInError.code: 401,
    RoleError.code: 403,
    FormError.code: 403,
    HostError.code: 403,
    TooSlowError.code: 408,
    TooMuchError.code: 413,
    LengthError.code: 411,
    UploadTooLargeError.code: 413,
    UploadOffsetError.code: 409,
    UploadBusyError.code: 409,
    BlobsMissingError.code: 409,
    BlobMissingError.code: 404,
    OutOfSpaceError.code: 507,
    TooOftenError.code: 429,
    UNEXPECTED: 500,
}
"""Status of an error by its code; what is not here is what the asker can do something about."""


_NO_DATABASE = "the server cannot use its database"
_UNAVAILABLE = {
    DatabaseReadOnlyError.code: "the server cannot write to its database",
    StoreUnavailableError.code: "the server cannot reach its store",
}
"""Messages for clients about errors with the status 503, by error code."""

RETRY_AFTER = {429: 1, 503: 5}
"""Seconds in the header Retry-After, by status."""

_SAID = 2_000
"""Characters of a sentence, in which what was asked may be repeated."""


def wants_json(request: Request) -> bool:
    """Tell whether who asks prefers JSON to a page: only where it is named, and HTML is not, or at an address for programs."""
    if request.url.path.startswith("/api/"):
        return True
    accepted = request.headers.get("accept", "").lower()
    return "application/json" in accepted and "text/html" not in accepted


def answer(request: Request, template: str, found: Mapping[str, Any], **more: Any) -> Response:
    """Return a page's content as JSON, or as HTML from a template.

    Args:
        request: what was asked.
        template: name of the page's template.
        found: a record, or several by name; the page has it as `it`, in JSON's forms.
        more: what only the page has, such as pictures.
    """
    document = presentable(plain(dict(found)))
    return (
        JSONResponse(document) if wants_json(request) else page(request, template, {"it": document, **more})
    )


def presentable(value: Any) -> Any:
    """Return a value as JSON can have it, without passwords in the URLs of its texts.

    Only who edits a database by other means puts infinity or bytes into it.
    """
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {presentable(str(key)): presentable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [presentable(each) for each in value]
    if isinstance(value, bytes):
        return repr(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """Return a page of the values that its template shows."""
    shown = {"path": request.url.path, "visitor": visitor_of(request), "acts": BY_NAME, "asked": ""}
    text = _environment().get_template(template).render({**shown, **values})
    return HTMLResponse(text, status)


def refusal(request: Request, error: FuseryError, status: int | None = None) -> Response:
    """Return an error as its sentence and its hint."""
    status = status or status_of(error)
    said, hint = (masked(text)[:_SAID] for text in (error.message, error.hint or ""))
    if status == 503:
        LOG.error("%s (request %s)", said, request.scope.get(NAME))
        # Only the operator may see addresses and paths of databases and stores.
        said, hint = _UNAVAILABLE.get(error.code, _NO_DATABASE), "try again later; the server's log says why"
    told: dict[str, Any] = {"code": error.code, "message": said, "hint": hint}
    if wants_json(request) and status < 500 and (details := details_of(error)):
        told["details"] = presentable(details)
    answer = (
        JSONResponse({"error": told}, status)
        if wants_json(request)
        else page(request, "error.html.j2", {"error": told, "status": status}, status)
    )
    if status in RETRY_AFTER:
        answer.headers["Retry-After"] = str(RETRY_AFTER[status])
    return answer


def status_of(error: FuseryError) -> int:
    """Return the status of an error."""
    return STATUS.get(error.code, 400)


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
    made.filters |= {"segment": segment, "kept": escape}
    return made
