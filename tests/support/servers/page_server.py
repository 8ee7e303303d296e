"""The pages of a registry, served by the real server in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import uvicorn
from waiting import wait_until

from fusery.registry import Registry
from fusery.registry.runtime.http_server import Connection, bind
from fusery.web.app import create_app
from fusery.web.auth import LocalAuth, TokenAuth


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(
    address: str, path: str = "", *, method: str = "GET", body: str | bytes | None = None, **headers: str
) -> Answer:
    """Send a request as it is; `_` in a header's name is a hyphen."""
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path or parts.path, body=body, headers=sent)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read().decode())
    finally:
        connection.close()


def post_form(address: str, path: str, fields: Mapping[str, str], **headers: str) -> Answer:
    sent = {"accept": "text/html", "content-type": "application/x-www-form-urlencoded", **headers}
    return ask(address, path, method="POST", body=urlencode(fields), **sent)


def post_json(address: str, path: str, document: object, **headers: str) -> Answer:
    sent = {"accept": "application/json", "content-type": "application/json", **headers}
    return ask(address, path, method="POST", body=json.dumps(document), **sent)


@contextmanager
def pages_of(
    registry: Registry,
    door: LocalAuth | TokenAuth | None = None,
    *,
    paced: bool = False,
) -> Iterator[str]:
    """Serve, and yield the address; to whom asks from this machine, if no door is given; as often as they like if not paced."""
    listener = bind("127.0.0.1", 0)
    listener.listen()
    app = create_app(registry, door or LocalAuth("anna"))
    if not paced:
        app.state.routes.unhurried()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        http=cast("type[asyncio.Protocol]", partial(Connection, {})),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
