"""Add the header `x-request-id` to every response, to find requests in logs: the client's id, or a new one."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = "x-request-id"
"""Name of the header, and of the key in a request's scope."""

_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class RequestIds:
    """Adds an id to each response; a client's own id is kept if it is valid."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, and add the header to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(NAME, "")
        scope[NAME] = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[NAME] = scope[NAME]
            await send(message)

        await self._app(scope, receive, sent)
