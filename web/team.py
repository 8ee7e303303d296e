"""A server for a team: where it may listen, and whom it believes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.uploads import USUAL, UploadLimits
from fusery.registry.records.token import Role
from fusery.registry.webhooks.deliverer import Deliverer
from fusery.storage.progress import SILENT, Reporter

from .running import Tls, serve_pages


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamRequest:
    """What a server for a team is asked to be.

    Attributes:
        host: address to listen on.
        port: 0 for a free one.
        hosts: names that requests may be for, besides addresses and localhost.
        tls: for HTTPS; None for HTTP.
        proxies: addresses and networks whose word on who somebody is counts.
        user_header: in which they say it.
        role_header: in which they say the role; empty where they say none.
        proxy_role: of those of whom none is said.
        proxy_secret: what proxies send in `X-Fusery-Proxy` besides; empty for nothing.
        insecure: tokens may go over the network as they are.
        largest_blob: bytes that one file may have that is pushed here; None for as many as usual.
    """

    host: str = "127.0.0.1"
    port: int = 8430
    hosts: Sequence[str] = ()
    tls: Tls | None = None
    proxies: Sequence[str] = ()
    user_header: str = "X-Forwarded-User"
    role_header: str = ""
    proxy_role: Role = "reader"
    proxy_secret: str = ""
    insecure: bool = False
    largest_blob: int | None = None


def serve_team(
    registry: Registry,
    request: TeamRequest,
    *,
    ready: Callable[[str, str, str], None],
    reporter: Reporter = SILENT,
) -> int:
    """Serve a registry to a team until a signal comes, and return the exit code.

    Its webhooks are delivered meanwhile, if `FUSERY_WEBHOOK_SECRET` is set.

    Raises:
        BadInputError: it would be open to all, or tokens would be read on their way; or an address is none.
        MissingExtraError: what serves pages is not installed.
    """
    networks = [_network(each) for each in request.proxies]
    if any(network.prefixlen == 0 for network in networks) and not request.proxy_secret:
        raise BadInputError(
            "every address would be believed who it says that asks",
            hint="name the proxies' addresses, or set FUSERY_PROXY_SECRET",
        )
    nobody = not networks and not any(token.state == "active" for token in registry.tokens.list())
    if nobody and _is_loopback(request.host):
        reporter.say("nobody can sign in yet: fusery token create NAME --role admin")
    if not _is_loopback(request.host):
        if nobody:
            raise BadInputError(
                f"nobody could sign in, and {request.host} is open to others",
                hint="fusery token create NAME --role admin, or --proxy ADDRESS",
            )
        if request.tls is None and not networks and not request.insecure:
            raise BadInputError(
                f"tokens would go to {request.host} as they are, for all on the way to read",
                hint="--certificate FILE --key FILE, --proxy ADDRESS, or --insecure-http",
            )
    from .doors import Proxies

    team = Proxies(
        networks=networks,
        header=request.user_header,
        role_header=request.role_header,
        role=request.proxy_role,
        secret=request.proxy_secret,
    )
    with _delivering(registry, reporter):
        return serve_pages(
            registry,
            team=team,
            host=request.host,
            port=request.port,
            hosts=request.hosts,
            tls=request.tls,
            uploads=USUAL if request.largest_blob is None else UploadLimits(largest=request.largest_blob),
            ready=ready,
        )


@contextmanager
def _delivering(registry: Registry, reporter: Reporter) -> Iterator[None]:
    """Deliver webhooks beside the server, where the environment has the secret that signs them."""
    hooks = registry.webhooks.list()  # and the database is open, before there are threads
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
        raise BadInputError(
            f"{text[:60]!r} is not an address of a proxy", hint="such as 10.0.0.5 or 10.0.0.0/24"
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
