"""Authenticate requests: by the key of local pages, a token, or the user name from a trusted proxy; errors of requests."""

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
from typing import Any, ClassVar

from fastapi import Request

from fusery.registry import Registry
from fusery.registry.errors import InvalidTokenError, RegistryError
from fusery.registry.records.tokens import ROLES, allows
from fusery.registry.records.trust import Role


class RequestError(RegistryError):
    """The server refused the request."""

    code = "registry"

    status: ClassVar[int]


class NotSignedInError(RequestError):
    """The request needs a token, or the token or session is not valid."""

    code, status = "not_signed_in", 401


class RefusedTokenError(NotSignedInError):
    """The token is unknown, revoked or expired; `why` is only for the server's log."""

    code = "not_signed_in"

    def __init__(self, message: str, *, hint: str | None, why: str) -> None:
        super().__init__(message, hint=hint)
        self.why = why


def _request_error(name: str, code: str, status: int, text: str) -> type[RequestError]:
    return type(
        name, (RequestError,), {"code": code, "status": status, "__doc__": text, "__module__": __name__}
    )


FormError = _request_error("FormError", "form_not_ours", 403, "Invalid form, or no bearer token.")
TooOftenError = _request_error("TooOftenError", "too_often", 429, "The client sends too many requests.")
LengthError = _request_error("LengthError", "length_needed", 411, "The request needs a Content-Length.")
HostError = _request_error(
    "HostError", "host_not_ours", 403, "The request is for another host, or a page of another origin sent it."
)
TooSlowError = _request_error("TooSlowError", "too_slow", 408, "The request's body did not arrive in time.")
TooMuchError = _request_error("TooMuchError", "too_much", 413, "The request's body is too large.")
UnexpectedError = _request_error(
    "UnexpectedError", "unexpected", 500, "The server failed: an error in fusery, or an edited database."
)

_BEARER = "bearer "
HALF_A_DAY = 43_200  # seconds that a session lasts
# maximum number of sessions of a server, and of one token; the oldest session ends first
SESSIONS = (10_000, 20)
_NAMES = 10_000  # maximum number of cached token names
_LONGEST = 200  # the maximum length of a user name from a proxy


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request."""

    name: str = ""  # empty if it is unknown
    role: Role | None = None  # None for no access
    authenticated: bool = False  # the name was proven by a token or a trusted proxy
    key: str = ""  # signs the principal's forms; empty if it cannot send forms
    # the token came in the request's header, which no page of another site can make a browser send
    is_program: bool = False
    signed_in: bool = False

    def may(self, needed: Role) -> bool:
        """Return whether the role is sufficient."""
        return self.role is not None and allows(self.role, needed)

    @property
    def form_token(self) -> str:
        """Return the token in each of the principal's forms, which pages of other sites cannot know."""
        return hmac.digest(self.key.encode(), b"fusery form", hashlib.sha256).hex() if self.key else ""

    def require_own_form(self, token: str) -> None:
        """Raise `FormError` if a form's token is not the principal's."""
        if not self.key or not hmac.compare_digest(self.form_token.encode(), token.encode()):
            raise FormError("invalid or expired form", hint="open the page again")

    def acting(self, registry: Registry) -> Registry:
        """Return a registry that acts under the principal's name and role."""
        return registry.acting(self.name, authenticated=self.authenticated, role=self.role or "reader")


NOBODY = Principal()


def principal_of(request: Request) -> Principal:
    """Return the sender that the route's guard authenticated."""
    principal = getattr(request.state, "principal", NOBODY)
    assert isinstance(principal, Principal)
    return principal


def program_of(request: Request) -> Principal:
    """Return the program that sends a request."""
    if not (principal := principal_of(request)).is_program:
        raise FormError("a bearer token is needed", hint="send the header Authorization: Bearer TOKEN")
    return principal


class LocalAuth:
    """Authenticate the user of this machine by the key that `fusery ui` printed; others on it may read."""

    signs_in = False  # whether there is a page for signing in

    def __init__(self, name: str) -> None:
        self._name = name
        # The second key is for a single use: others on the machine can see the browser's arguments.
        self.key, self.once = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        # The cookie's name is unique to this run: all ports of a host share cookies.
        self.cookie = f"fusery_{_digest(self.key)[:12]}"

    def principal(self, request: Request) -> Principal:
        """Return the user, if the request has the key; else a reader."""
        token = bearer(request)
        if token is not None:
            if not self.opens(token):
                raise NotSignedInError("invalid key", hint="fusery ui")
            return Principal(self._name, "admin", is_program=True)
        if self.opens(request.cookies.get(self.cookie, "")):
            return Principal(self._name, "admin", key=self.key)
        return Principal("reader", "reader")

    def client_key(self, request: Request) -> str:
        """Return the rate limit key of the user, or that of all others."""
        token = request.headers.get("authorization", "")[len(_BEARER) :].strip()
        return "key" if self.opens(token) or self.opens(request.cookies.get(self.cookie, "")) else "others"

    def opens(self, key: str) -> bool:
        """Return whether this is the key."""
        return hmac.compare_digest(key.encode(), self.key.encode())

    def opens_once(self, key: str) -> bool:
        """Return whether this is the key for a single use, and replace it if so."""
        if not hmac.compare_digest(key.encode(), self.once.encode()):
            return False
        self.once = secrets.token_urlsafe(32)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Trusted proxies that authenticate users."""

    networks: Collection[IPv4Network | IPv6Network] = ()  # the addresses from which they connect
    header: str = "X-Forwarded-User"  # the header with the user's name
    role_header: str = ""  # the header with the role; empty for `role`
    role: Role = "reader"  # the role of users without one in the header
    secret: str = field(default="", repr=False)  # the required value of `X-Fusery-Proxy`; empty for none

    def trusted(self, request: Request) -> bool:
        """Return whether a request comes from one of them: by the peer of the connection, which no header can forge."""
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


class TokenAuth:
    """Identify a client by its token, or by the user name that a trusted proxy sends."""

    signs_in = True
    cookie, secure_cookie = "fusery_token", "__Host-fusery_token"

    def __init__(self, registry: Registry, proxies: Proxies) -> None:
        self._registry, self._proxies = registry, proxies
        self._key = proxies.secret or secrets.token_urlsafe(32)
        self.sessions = Sessions()
        self._names: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def principal(self, request: Request) -> Principal:
        """Return the sender; a proxy's header takes precedence over a cookie, which a sibling domain could set."""
        proxied = self._of_proxy(request)
        basic = request.headers.get("authorization", "").lower().startswith("basic ")  # meant for the proxy
        token = None if basic and proxied is not NOBODY else bearer(request)
        if token is not None:
            return self.authenticate(token, is_program=True)
        session = self.session(request)
        if proxied is not NOBODY or not session:
            return proxied
        token = self.sessions.token_of(session)
        if token is None:
            raise NotSignedInError("the session has ended", hint="sign in again")
        return self.authenticate(token, session=session)

    def session(self, request: Request) -> str:
        """Return the session id in the browser's cookie; empty without a cookie."""
        return request.cookies.get(self.secure_cookie if self.is_secure(request) else self.cookie, "")

    def client_key(self, request: Request) -> str:
        """Return the principal's name; else, or while the token was not authenticated yet, the peer's address."""
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
        return f"name {name}" if name else f"peer {peer_of(request)}"

    def authenticate(self, secret: str, *, is_program: bool = False, session: str = "") -> Principal:
        """Return the holder of a token."""
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
        return Principal(token.name, token.role, True, session, is_program, bool(session))

    def is_secure(self, request: Request) -> bool:
        """Return whether the browser uses TLS, with this server or with a trusted proxy."""
        if request.url.scheme == "https":
            return True
        return self._proxies.trusted(request) and request.headers.get("x-forwarded-proto") == "https"

    def _of_proxy(self, request: Request) -> Principal:
        header = self._proxies.header
        name = _header(request, header)
        if not name or not self._proxies.trusted(request):
            return NOBODY
        # The log writes names as `NAME (PLACE)`.
        if len(name) > _LONGEST or not name.isprintable() or "(" in name or ")" in name:
            raise NotSignedInError(f"invalid user name in {header}")
        role: Any = _header(request, self._proxies.role_header) or self._proxies.role
        if role not in ROLES:
            raise NotSignedInError(f"invalid role in {self._proxies.role_header}: {str(role)[:40]!r}")
        key = hmac.digest(self._key.encode(), name.encode(), hashlib.sha256).hex()
        return Principal(name, role, authenticated=True, key=key)


def _header(request: Request, name: str) -> str:
    """Return a header from a proxy; empty without it."""
    values = request.headers.getlist(name) if name else []
    if len(values) > 1:
        raise NotSignedInError(f"duplicate header from the proxy: {name}")
    try:
        return values[0].encode("latin-1").decode().strip() if values else ""
    except UnicodeDecodeError as error:
        raise NotSignedInError(f"invalid header {name} (not UTF-8)") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def peer_of(request: Request) -> str:
    """Return the client's address."""
    return request.client.host if request.client else ""


def bearer(request: Request) -> str | None:
    """Return the bearer token of a request; None without an `Authorization` header."""
    given = request.headers.get("authorization")
    if given is None:
        return None
    if given[: len(_BEARER)].lower() != _BEARER:
        raise NotSignedInError("unsupported Authorization scheme (expected Bearer)")
    return given[len(_BEARER) :].strip()
