"""The ways in: for who started the pages on their own machine, and for a team with tokens or a proxy that signs people in."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from fastapi import Request

from fusery.registry import Registry
from fusery.registry.access.roles import ROLES
from fusery.registry.errors import InvalidTokenError
from fusery.registry.records.token import Role

from .visitors import NOBODY, NotSignedInError, RefusedTokenError, Visitor

_BEARER = "bearer "
HALF_A_DAY = 43_200
"""Seconds that a session lasts."""

SESSIONS = (10_000, 20)
"""The most sessions of a server, and of one token; the oldest session ends first."""

_NAMES = 10_000
"""The most tokens whose names a server remembers."""

_LONGEST = 200
"""Characters of a name that a proxy gives."""


class OwnDoor:
    """Everybody on this machine may read; acts are for who has the key that was printed at the start.

    Attributes:
        key: of this run of the pages.
    """

    signs_in = False

    def __init__(self, name: str) -> None:
        self.key = secrets.token_urlsafe(32)
        self._name = name
        self._once = secrets.token_urlsafe(32)
        # Cookies are for a host and all its ports: another run of the pages on this machine has a name of its own.
        self.cookie = f"fusery_{hashlib.sha256(self.key.encode()).hexdigest()[:12]}"

    def visitor(self, request: Request) -> Visitor:
        """Return who asks: the user who has the key, or a reader."""
        borne = bearer(request)
        if borne is not None:
            if not self.opens(borne):
                raise NotSignedInError("this is not the key of these pages", hint="fusery ui")
            return Visitor(self._name, "admin", is_program=True)
        if self.opens(request.cookies.get(self.cookie, "")):
            return Visitor(self._name, "admin", key=self.key)
        return Visitor("reader", "reader")

    def asker(self, request: Request) -> str:
        """Return what tells who has the key from all others."""
        given = request.headers.get("authorization", "")[len(_BEARER) :].strip()
        return "key" if self.opens(given) or self.opens(request.cookies.get(self.cookie, "")) else "others"

    def opens(self, key: str) -> bool:
        """Tell whether this is the key."""
        return hmac.compare_digest(key.encode(), self.key.encode())

    @property
    def once(self) -> str:
        """What a browser is started with: others on the machine see that, and it opens one time."""
        return self._once

    def opens_once(self, key: str) -> bool:
        """Tell whether this is what a browser was started with, and has not been used yet."""
        if not hmac.compare_digest(key.encode(), self._once.encode()):
            return False
        self._once = secrets.token_urlsafe(32)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Proxies that sign people in and say who they are.

    Attributes:
        networks: addresses from which they connect.
        header: that has the person's name.
        role_header: that has the role; empty for `role`.
        role: of those of whom none is said.
        secret: what `X-Fusery-Proxy` has to have besides; empty for nothing.
    """

    networks: Collection[IPv4Network | IPv6Network] = ()
    header: str = "X-Forwarded-User"
    role_header: str = ""
    role: Role = "reader"
    secret: str = field(default="", repr=False)

    def believed(self, request: Request) -> bool:
        """Tell whether a request comes from one of them: by the peer of the connection, which no header can say."""
        if not self.networks or request.client is None:
            return False
        try:
            peer = ip_address(request.client.host)
        except ValueError:
            return False
        mapped = getattr(peer, "ipv4_mapped", None) or peer
        if not any(mapped in network for network in self.networks):
            return False
        given = ",".join(request.headers.getlist("x-fusery-proxy"))
        return not self.secret or hmac.compare_digest(given.encode(), self.secret.encode())


class Sessions:
    """The browser sessions of one server, in its memory: a session ends with the sign-out, or with the server."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, token: str) -> str:
        """Begin a session for an authenticated token, and return the session id for the browser's cookie."""
        session, ends = secrets.token_urlsafe(32), time.monotonic() + HALF_A_DAY
        most, most_of_token = SESSIONS
        with self._lock:
            own = [digest for digest, (secret, _) in self._open.items() if secret == token]
            for digest in own[: max(0, len(own) - most_of_token + 1)]:
                del self._open[digest]
            while len(self._open) >= most:
                self._open.popitem(last=False)
            self._open[_digest(session)] = token, ends
        return session

    def token_of(self, session: str) -> str | None:
        """Return the token of a session; None if the session has ended."""
        token, ends = self._open.get(_digest(session), (None, 0.0))
        return token if time.monotonic() < ends else None

    def end(self, session: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(_digest(session), None)


class TeamDoor:
    """Identify a client by its token, or by the user name that a trusted proxy sends.

    Attributes:
        sessions: the browser sessions of this server.
    """

    signs_in = True
    cookie, secure_cookie = "fusery_token", "__Host-fusery_token"

    def __init__(self, registry: Registry, proxies: Proxies) -> None:
        self._registry, self._proxies = registry, proxies
        self._key = proxies.secret or secrets.token_urlsafe(32)
        self.sessions = Sessions()
        self._names: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def visitor(self, request: Request) -> Visitor:
        """Return who asks; a token that is not valid is an error.

        What a proxy says counts before a cookie, which a neighbour of this host could have set.
        """
        borne = bearer(request)
        if borne is not None:
            return self.holder(borne, is_program=True)
        proxied = self._of_proxy(request)
        session = self.session(request)
        if proxied is not NOBODY or not session:
            return proxied
        token = self.sessions.token_of(session)
        if token is None:
            raise NotSignedInError("the session has ended", hint="sign in again")
        return self.holder(token, session=session)

    def session(self, request: Request) -> str:
        """Return the session id in the browser's cookie; empty without a cookie."""
        return request.cookies.get(self.secure_cookie if self.is_secure(request) else self.cookie, "")

    def asker(self, request: Request) -> str:
        """Return the key that a request is counted by, before any lookup: the principal, or else the peer's address.

        A token that has not been authenticated yet is counted by the address, since anybody can make one up.
        """
        try:
            token = bearer(request)
            if token is None:
                proxied = self._of_proxy(request)
                if proxied is not NOBODY:
                    return f"name {proxied.name}"
                token = self.sessions.token_of(self.session(request))
        except NotSignedInError:
            token = None
        name = self._names.get(_digest(token)) if token else None
        return f"name {name}" if name else f"peer {request.client.host if request.client else ''}"

    def holder(self, secret: str, *, is_program: bool = False, session: str = "") -> Visitor:
        """Return whose token this is.

        Args:
            secret: the secret of the token.
            is_program: the token came in the request's header, not by a session.
            session: id of the browser session with the token; empty without a session.

        Raises:
            NotSignedInError: nobody's, or it was revoked or has expired.
        """
        try:
            token = self._registry.tokens.authenticate(secret)
        except InvalidTokenError as error:
            with self._lock:
                self._names.pop(_digest(secret), None)  # its requests count by their address again
            raise RefusedTokenError(error.message, hint=error.hint, why=error.why) from error
        with self._lock:
            self._names[_digest(secret)] = token.name
            while len(self._names) > _NAMES:
                self._names.popitem(last=False)
        return Visitor(
            token.name,
            token.role,
            authenticated=True,
            key=session,
            is_program=is_program,
            signed_in=bool(session),
        )

    def is_secure(self, request: Request) -> bool:
        """Tell whether the browser speaks TLS, with this server or with a proxy that says so."""
        if request.url.scheme == "https":
            return True
        return self._proxies.believed(request) and request.headers.get("x-forwarded-proto") == "https"

    def _of_proxy(self, request: Request) -> Visitor:
        name = _said(request, self._proxies.header)
        if not name or not self._proxies.believed(request):
            return NOBODY
        # What stands in brackets is where somebody is, and with another place it is the same person.
        if len(name) > _LONGEST or not name.isprintable() or "(" in name or ")" in name:
            raise NotSignedInError("the proxy gives a name that is none")
        role: Any = _said(request, self._proxies.role_header) or self._proxies.role
        if role not in ROLES:
            raise NotSignedInError(f"the proxy gives a role that there is not: {str(role)[:40]!r}")
        key = hmac.digest(self._key.encode(), name.encode(), hashlib.sha256).hex()
        return Visitor(name, role, authenticated=True, key=key)


def _said(request: Request, name: str) -> str:
    """Return what a proxy says in a header, of which there may be one; empty where it says nothing, or is not to."""
    said = request.headers.getlist(name) if name else []
    if len(said) > 1:
        raise NotSignedInError(f"there are {len(said)} headers {name}, and one of them is not the proxy's")
    try:
        return said[0].encode("latin-1").decode().strip() if said else ""
    except UnicodeDecodeError as error:
        raise NotSignedInError(f"the header {name} is no UTF-8") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def bearer(request: Request) -> str | None:
    """Return the token that came with a request; None where none did."""
    given = request.headers.get("authorization")
    if given is None:
        return None
    if given[: len(_BEARER)].lower() != _BEARER:
        raise NotSignedInError("this server knows no other Authorization than Bearer")
    return given[len(_BEARER) :].strip()
