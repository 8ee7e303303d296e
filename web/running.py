"""Run the server until a signal: for the user of this machine, or for a team."""

from __future__ import annotations

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
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.records.trust import Role
from fusery.registry.remote.address import is_loopback
from fusery.registry.runtime.errors import AddressError
from fusery.registry.webhooks.sending import Deliverer
from fusery.storage.progress import SILENT, Reporter

if TYPE_CHECKING:
    from .auth import Proxies

DRAIN_SECONDS = 5  # seconds to finish the running requests at the end
OUTAGE_SECONDS = 3.0  # seconds that a request waits for PostgreSQL, before it fails with 503

Ready = Callable[[str, str, str], None]  # gets the address, one that opens it, and one that does so once


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """The options of a server; all below `tls` are those of a team's server."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 for a free one
    hosts: Sequence[str] = ()  # names that requests may be for, besides addresses and localhost
    tls: tuple[Path, Path] | None = None  # certificate with its chain, and key: PEM files; None for HTTP
    # addresses and networks of trusted proxies; for the next four see `fusery.web.auth.Proxies`
    proxies: Sequence[str] = ()
    user_header: str = "X-Forwarded-User"
    role_header: str = ""
    proxy_role: Role = "reader"
    proxy_secret: str = ""
    insecure: bool = False  # allow tokens without encryption


def serve_team(registry: Registry, options: WebOptions, *, ready: Ready, reporter: Reporter = SILENT) -> int:
    """Serve a registry to a team until a signal, and return the exit code; deliver its webhooks meanwhile."""
    registry.workspace.make_embedded()
    networks = [_network(proxy) for proxy in options.proxies]
    if any(network.prefixlen == 0 for network in networks) and not options.proxy_secret:
        raise BadInputError(
            "every address would be a trusted proxy", hint="name addresses, or set FUSERY_PROXY_SECRET"
        )
    nobody = not networks and not any(token.state == "active" for token in registry.tokens.list())
    if is_loopback(options.host):
        if nobody:
            reporter.say("there are no tokens yet: fusery admin token create NAME --role admin")
    elif nobody:
        problem = f"no one could sign in, and {options.host} is open to others"
        raise BadInputError(problem, hint="fusery admin token create NAME --role admin, or --proxy ADDRESS")
    elif options.tls is None and not networks and not options.insecure:
        problem = f"tokens would be sent to {options.host} without encryption"
        hint = "--certificate FILE --key FILE, --proxy ADDRESS, or --insecure-http"
        raise BadInputError(problem, hint=hint)
    from .auth import Proxies

    team = Proxies(
        networks=networks,
        header=options.user_header,
        role_header=options.role_header,
        role=options.proxy_role,
        secret=options.proxy_secret,
    )
    with _delivering(registry, reporter):
        return serve_pages(registry, options, team=team, ready=ready)


def serve_pages(registry: Registry, options: WebOptions, *, team: Proxies | None = None, ready: Ready) -> int:
    """Serve a registry until a signal, and return the exit code."""
    try:
        from fusery.registry.runtime.http_server import HttpServer, address_of, bind

        from .app import create_app
        from .auth import LocalAuth, TokenAuth
    except ModuleNotFoundError as error:
        raise MissingExtraError("the registry in a browser", "web") from error
    certificate, key = options.tls or (None, None)
    if certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            unfit = f"{certificate} and {key} are not a certificate and its key"
            raise BadInputError(unfit, hint="two PEM files") from error
    registry.upkeep.log(limit=1)  # an unreadable registry is an error now, and not on the first page
    registry.workspace.database.outage_seconds = OUTAGE_SECONDS
    try:
        listener = bind(options.host, options.port)
    except AddressError as error:
        raise BadInputError(str(error), hint="--port 0 takes a free one") from error
    with listener:
        listener.listen()
        address = address_of(listener, "https" if options.tls else "http")
        auth = LocalAuth(registry.workspace.actor) if team is None else TokenAuth(registry, team)
        entrance = once = address
        if isinstance(auth, LocalAuth):
            entrance, once = f"{address}/enter/{auth.key}", f"{address}/enter/{auth.once}"
        server = HttpServer(
            create_app(registry, auth, hosts=options.hosts),
            lambda: ready(address, entrance, once),
            # uvicorn would trust the headers of every process of this machine; `Proxies` decides instead.
            proxy_headers=False,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
            ws="none",
        )
        # They report each broken request and each refused connection.
        for logger in ("uvicorn.error", "asyncio"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        with _ended_by_signals():
            server.run(sockets=[listener])
    _end_what_is_left()
    return 0


def _end_what_is_left() -> None:
    """End the process while a page is still being made: Python would wait for its thread, and pages only read."""
    end = time.monotonic() + 1
    while any(thread.name.startswith("AnyIO worker") for thread in threading.enumerate()):
        if time.monotonic() > end:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        time.sleep(0.02)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ignore the signal that uvicorn raises again after it has ended in good order."""
    wanted = [sig for sig in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(sig) is not signal.SIG_IGN]
    before = {sig: signal.signal(sig, lambda *_: None) for sig in wanted}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


@contextmanager
def _delivering(registry: Registry, reporter: Reporter) -> Iterator[None]:
    """Deliver webhooks meanwhile, if the environment has the secret that signs them."""
    hooks = registry.webhooks.list()  # which opens the database before there are threads
    if not Deliverer.load().secrets:
        if hooks:
            reporter.say("webhooks are not delivered here: FUSERY_WEBHOOK_SECRET is not set")
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(
        target=registry.webhooks.run, kwargs={"stop": stop, "reporter": reporter}, name="webhooks"
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadInputError(f"invalid --proxy: {text[:60]!r}", hint="10.0.0.5 or 10.0.0.0/24") from error
