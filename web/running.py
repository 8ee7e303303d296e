"""Running the pages: on this machine alone, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.exchange.uploads import USUAL, UploadLimits
from fusery.registry.server.errors import AddressError
from fusery.registry.server.listening import bind

if TYPE_CHECKING:
    import uvicorn

    from .doors import Proxies

DRAIN_SECONDS = 5
"""Time to finish what is being answered."""

OUTAGE_SECONDS = 3.0
"""Seconds that a request waits for a PostgreSQL server that does not answer, before it fails with 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a server shows that it is who it is.

    Attributes:
        certificate: PEM file of the certificate and those that lead to it.
        key: PEM file of its key.
    """

    certificate: Path
    key: Path


def serve_pages(
    registry: Registry,
    *,
    team: Proxies | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    hosts: Sequence[str] = (),
    tls: Tls | None = None,
    uploads: UploadLimits = USUAL,
    ready: Callable[[str, str, str], None],
) -> int:
    """Serve the pages of a registry until a signal comes, and return the exit code.

    Args:
        registry: what the pages are of.
        team: whose word on who somebody is counts besides tokens; None for the pages of one's own machine.
        host: address to listen on.
        port: 0 for a free one.
        hosts: names that requests may be for, besides addresses and localhost.
        tls: for HTTPS; None for HTTP.
        uploads: how much may be pushed here.
        ready: told the address, that by which the pages are opened, and one that opens them a single time, when they can be
            asked for.

    Raises:
        MissingExtraError: what serves pages is not installed.
        BadInputError: somebody else has the port.
    """
    try:
        import uvicorn

        from fusery.registry.server.connections import Connection

        from .app import create_app
        from .doors import OwnDoor, TeamDoor
    except ModuleNotFoundError as error:
        raise MissingExtraError("the registry in a browser", "web") from error
    if tls is not None:
        _require_pair(tls)
    # What cannot be read is an error now, and not on the first page.
    registry.upkeep.log(limit=1)
    registry.workspace.database.outage_seconds = OUTAGE_SECONDS
    try:
        listener = bind(host, port)
    except AddressError as error:
        raise BadInputError(str(error), hint="--port 0 takes a free one") from error
    with listener:
        listener.listen()
        named = f"[{host}]" if ":" in host else host
        address = f"http{'s' if tls else ''}://{named}:{listener.getsockname()[1]}"
        door = OwnDoor(registry.workspace.actor) if team is None else TeamDoor(registry, team)
        entrance = once = address
        if isinstance(door, OwnDoor):
            entrance, once = f"{address}/enter/{door.key}", f"{address}/enter/{door.once}"
        config = uvicorn.Config(
            create_app(registry, door, hosts=hosts, uploads=uploads),
            # Who sends no request is hung up on, and keeps nobody from sending one.
            http=cast("type[asyncio.Protocol]", partial(Connection, {})),  # it is called, and no more
            # Whose word counts on where a request comes from is ours to say, and uvicorn would believe this machine.
            proxy_headers=False,
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
            ws="none",
        )
        # What it says of broken requests and of those it gives up is of no use to who looks at pages.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        # It would say of each connection that there is no room for one.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        server = _server(config, lambda: ready(address, entrance, once))
        with _ended_by_signals():
            server.run(sockets=[listener])
    _end_what_is_left()
    return 0


def _require_pair(tls: Tls) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{tls.certificate} and {tls.key} are not a certificate and its key", hint="two PEM files"
        ) from error


def _end_what_is_left() -> None:
    """End the process where a page is still being made: Python would wait for its thread, and pages only read."""
    end = time.monotonic() + 1
    while any(_at_work()):
        if time.monotonic() > end:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        time.sleep(0.02)


def _at_work() -> Iterator[threading.Thread]:
    return (each for each in threading.enumerate() if each.name.startswith("AnyIO worker"))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Take a signal for the end that it asks for: uvicorn ends in good order, and then raises it once more."""
    wanted = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _server(config: uvicorn.Config, ready: Callable[[], None]) -> uvicorn.Server:
    import uvicorn
    from uvicorn.server import HANDLED_SIGNALS

    ignored = {number for number in HANDLED_SIGNALS if signal.getsignal(number) is signal.SIG_IGN}

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

        def handle_exit(self, sig: int, frame: Any) -> None:
            # uvicorn sets its handler also for what this process was started to ignore.
            if sig not in ignored:
                super().handle_exit(sig, frame)

    return Server(config)
