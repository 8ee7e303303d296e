"""Forms: an act is asked for on a page of its own, and done once that page was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.records.release import Promotion
from fusery.storage.errors import FuseryError

from .acts import ACTS, Act, cleaned, values_of
from .answers import page, status_of
from .routes import Routes
from .visitors import FormError, visitor_of

TOKEN = "form_token"
_MOST_FIELDS = 20


async def sent_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; of one that is there twice the last."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadInputError("expected a form", hint="programs: see /api/v1/openapi.json")
    try:
        text = (await request.body()).decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError as error:
        raise BadInputError("this is no form that a page here sends") from error


Form = Annotated[dict[str, str], Depends(sent_form)]


def add_forms(routes: Routes, registry: Registry) -> None:
    """Add the page of each act, and what that is sent to."""
    for act in ACTS:
        _add(routes, registry, act)


def _add(routes: Routes, registry: Registry, act: Act) -> None:
    @routes.page(f"/acts/{act.name}", role=act.role)
    def ask(request: Request) -> Response:
        given = {name: text[:2_000] for name, text in request.query_params.items()}
        return _asked(request, registry, act, given, None)

    @routes.post(f"/acts/{act.name}", role=act.role)
    def done(request: Request, given: Form) -> Response:
        visitor = visitor_of(request)
        if not visitor.sent(given.pop(TOKEN, "")):
            raise FormError("this form is not of this server, or of another time", hint="open the page again")
        try:
            record = act.do(
                registry.acting(
                    visitor.name, authenticated=visitor.authenticated, role=visitor.role or "reader"
                ),
                cleaned(act, values_of(act, given)),
            )
        except FuseryError as error:
            return _asked(request, registry, act, given, error)
        if isinstance(record, Promotion):
            shown = {"act": act, "promotion": record.to_dict(), "after": True, "then": act.then(record)}
            return page(request, "promotion.html.j2", shown, 200 if record.verdict == "passed" else 409)
        return RedirectResponse(act.then(record), 303)


def _asked(
    request: Request, registry: Registry, act: Act, given: Mapping[str, str], problem: FuseryError | None
) -> Response:
    """Return the form of an act, with what is given already, and what was wrong with that."""
    shown: dict[str, Any] = {"act": act, "given": given, "problem": problem, "promotion": None, "choices": ()}
    status = 200 if problem is None else status_of(problem)
    if problem is None:
        try:
            shown |= _known(registry, act, given)
        except FuseryError as error:
            shown["problem"], status = error, status_of(error)
    return page(request, "act.html.j2", shown, status)


def _known(registry: Registry, act: Act, given: Mapping[str, str]) -> dict[str, Any]:
    """Return what is known before anything is done: the aliases to choose from, and what holds of the rules of one."""
    adapter, alias = given.get("adapter"), given.get("alias")
    if adapter and act.now and not given.keys() & act.now.keys():
        known = registry.adapters.show(adapter)
        return {"given": {**given, **{name: said(known) for name, said in act.now.items()}}}
    if not adapter or all(field.name != "alias" for field in act.fields):
        return {}
    if not alias:
        return {"choices": registry.aliases.names_for(adapter)}
    if act.name == "promote":
        return {"promotion": registry.aliases.promote(adapter, alias, dry_run=True).to_dict()}
    return {}
