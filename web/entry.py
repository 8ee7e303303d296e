"""Coming in: the key that was printed at the start, or a token on the page to sign in on."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from fusery.registry.errors import UnknownReferenceError

from .answers import page, status_of
from .doors import HALF_A_DAY, OwnDoor, TeamDoor
from .forms import TOKEN, Form
from .routes import Routes
from .visitors import FormError, NotSignedInError, visitor_of

Place = Annotated[str, Query(max_length=2_000)]


def add_key(routes: Routes, door: OwnDoor) -> None:
    """Add the address that the pages of one's own machine are opened by."""

    @routes.page("/enter/{key}", role=None)
    def enter(request: Request, key: str) -> Response:
        if not (door.opens(key) or door.opens_once(key)):
            raise UnknownReferenceError(
                "this opens these pages no more: they were started anew, or it was used", hint="fusery ui"
            )
        answer = RedirectResponse("/", 303)
        answer.set_cookie(door.cookie, door.key, httponly=True, samesite="strict")
        return answer


def add_sign_in(routes: Routes, door: TeamDoor) -> None:
    """Add the page to sign in on, and the way out."""

    @routes.page("/sign-in", role=None)
    def ask(request: Request, then: Place = "/") -> Response:
        return page(request, "sign_in.html.j2", {"then": then, "problem": None})

    @routes.post("/sign-in", role=None)
    def sign_in(request: Request, given: Form) -> Response:
        then = given.get("then", "/")
        token = given.get("token", "").strip()
        try:
            door.holder(token)
        except NotSignedInError as error:
            routes.count_failure(request, error)
            return page(request, "sign_in.html.j2", {"then": then, "problem": error}, status_of(error))
        answer = RedirectResponse(_within(then), 303)
        answer.set_cookie(
            door.secure_cookie if door.is_secure(request) else door.cookie,
            door.sessions.begin(token),
            max_age=HALF_A_DAY,
            httponly=True,
            samesite="lax",  # whoever follows a link from a chat is signed in; no form of another site is
            secure=door.is_secure(request),
        )
        return answer

    @routes.post("/sign-out", role=None)
    def sign_out(request: Request, given: Form) -> Response:
        visitor = visitor_of(request)
        if visitor.key and not visitor.sent(given.get(TOKEN, "")):
            raise FormError("this form is not of this server, or of another time", hint="open the page again")
        door.sessions.end(door.session(request))
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(door.cookie)
        answer.delete_cookie(door.secure_cookie, secure=True, httponly=True)
        return answer


def _within(place: str) -> str:
    """Return a place on this server: what could lead to another one is the start."""
    fine = place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable()
    return place if fine else "/"
