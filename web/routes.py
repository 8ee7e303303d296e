"""Routes, each with the role that it needs: one that says none cannot be made."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response

from fusery.registry.errors import RoleError
from fusery.registry.records.token import Role

from .limits import Pace
from .visitors import (
    NOBODY,
    Door,
    NotSignedInError,
    RefusedTokenError,
    TooOftenError,
    Visitor,
)

LOG = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Response | Awaitable[Response]])

API = "/api/v1"
"""Where programs find what pages show, as JSON whatever they accept."""

RATE = (50, 400)
"""Requests of one asker: in a second, and at once."""

FAILURES = (1, 20)
"""The same of requests with a token that is not valid, for each address."""


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of one route.

    Attributes:
        path: with names in braces.
        method: `GET`, `HEAD`, `POST` or `PUT`.
        role: that it needs; None for anybody.
        record: the type of what it returns as JSON; None where it is for people alone, or returns something else.
        sends: the media type of what else it returns to programs.
        takes: the media type of what it is sent, where that is read piece by piece.
    """

    path: str
    method: str
    role: Role | None
    record: Any
    sends: str = ""
    takes: str = ""

    @property
    def described(self) -> bool:
        """It is in the document for programs."""
        return self.record is not None or bool(self.sends)


class Routes:
    """The routes of one application.

    Attributes:
        made: all of them.
    """

    def __init__(self, app: FastAPI, door: Door) -> None:
        self.made: list[Route] = []
        self._app, self._door = app, door
        self._pace, self._failures = Pace(*RATE), Pace(*FAILURES)

    def page(self, path: str, *, role: Role | None = "reader") -> Callable[[Handler], Handler]:
        """Return a decorator for functions that return a page.

        Args:
            path: of the page.
            role: that it needs; None for anybody.
        """

        def add(handler: Handler) -> Handler:
            self._add(Route(path, "GET", role, None), handler, ["GET", "HEAD"])
            return handler

        return add

    def post(
        self, path: str, record: Any = None, *, role: Role | None, takes: str = ""
    ) -> Callable[[Handler], Handler]:
        """Return a decorator for what takes something, from a form or, where it returns a record, from a program."""

        def add(handler: Handler) -> Handler:
            self._add(Route(path, "POST", role, record, takes=takes), handler, ["POST"])
            return handler

        return add

    def read(self, path: str, record: Any, *, role: Role | None) -> Callable[[Handler], Handler]:
        """Return a decorator for functions that return a record as JSON."""

        def add(handler: Handler) -> Handler:
            self._add(Route(path, "GET", role, record), handler, ["GET"])
            return handler

        return add

    def get(
        self, path: str, *, role: Role | None, sends: str = "", head: bool = False
    ) -> Callable[[Handler], Handler]:
        """Return a decorator for what only programs fetch, or browsers for a page; with `head`, its headers alone may be asked for too."""

        def add(handler: Handler) -> Handler:
            self._add(Route(path, "GET", role, None, sends=sends), handler, ["GET"])
            if head:
                self._add(Route(path, "HEAD", role, None), handler, ["HEAD"])
            return handler

        return add

    def put(self, path: str, record: Any, *, role: Role | None, takes: str) -> Callable[[Handler], Handler]:
        """Return a decorator for what takes bytes to be kept at that address."""

        def add(handler: Handler) -> Handler:
            self._add(Route(path, "PUT", role, record, takes=takes), handler, ["PUT"])
            return handler

        return add

    def unhurried(self) -> None:
        """Let everybody ask as often as they like: for measurements and tests."""
        self._pace, self._failures = Pace(1e9, 1 << 30), Pace(1e9, 1 << 30)

    def count_failure(self, request: Request, error: NotSignedInError) -> None:
        """Count a try with something that is not valid, and say so in the server's log: no more often than that is counted.

        Who has a good token behind the same address is not kept out by who tries bad ones.

        Raises:
            TooOftenError: there were too many.
        """
        _wait(self._failures, request.client.host if request.client else "")
        if isinstance(error, RefusedTokenError):
            LOG.warning("refused a token: %s", error.why)

    def _add(self, route: Route, handler: Callable[..., Any], methods: list[str]) -> None:
        self._app.add_api_route(
            route.path,
            handler,
            methods=methods,
            dependencies=[Depends(self._guard(route.role))],
            response_model=None,
            include_in_schema=route.described,
            summary=(handler.__doc__ or handler.__name__.replace("_", " ")).partition("\n")[0].rstrip("."),
        )
        self.made.append(route)

    def _guard(self, role: Role | None) -> Callable[[Request], None]:
        door = self._door

        def known(request: Request) -> Visitor:
            peer = request.client.host if request.client else ""
            try:
                visitor = door.visitor(request)
            except NotSignedInError as error:
                if role is None:
                    return NOBODY  # who has a cookie that is good no more can sign in anew
                self.count_failure(request, error)
                raise
            _wait(self._pace, f"name {visitor.name}" if visitor.name else f"peer {peer}")
            return visitor

        def guard(request: Request) -> None:
            request.state.visitor = visitor = known(request)
            if role is None or visitor.may(role):
                return
            if visitor.role is None:
                raise NotSignedInError("this needs a token", hint="fusery token create NAME --role reader")
            raise RoleError(
                f"{visitor.name} has the role of {visitor.role}, and this needs {role}", hint="ask an admin"
            )

        return guard


def _wait(pace: Pace, asker: str) -> None:
    seconds = pace.wait(asker)
    if seconds:
        raise TooOftenError("too many requests in too short a time", hint=f"wait {math.ceil(seconds)} s")
