"""Addresses of servers, tokens of the environment, and trusted certificates."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fusery.storage.errors import MissingFileError
from fusery.storage.failures import os_failures

from ..errors import BadInputError

if TYPE_CHECKING:
    import ssl

_TOKEN = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of a server.

    Attributes:
        url: as messages show it.
        port: None for the scheme's default.
        path: prefix of every path of the API, for a server behind a proxy.
        secure: over TLS.
    """

    url: str
    host: str
    port: int | None
    path: str
    secure: bool

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False, variable: str = "FUSERY_TOKEN") -> ServerAddress:
        """Parse the URL of a server.

        Args:
            text: the URL.
            insecure: allow HTTP without TLS to another machine.
            variable: the environment variable of the token.

        Raises:
            BadInputError: it is invalid, contains a password, or needs TLS.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise BadInputError("invalid URL of a server", hint="https://HOST") from error
        if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
            raise BadInputError("invalid URL of a server", hint="https://HOST")
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Not repeated: there may be a password in it.
            raise BadInputError(
                "the URL of a server must not contain a user, a password, a query or a fragment",
                hint=f"set the token in {variable} or {variable}_FILE",
            )
        secure = parts.scheme == "https"
        if not (secure or insecure or _is_loopback(host)):
            raise BadInputError(
                f"the token would be sent to {host} without encryption",
                hint="use https://, or --insecure-http",
            )
        path = parts.path.rstrip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{path}", host, port, path, secure)

    @property
    def loopback(self) -> bool:
        """The server is on this machine."""
        return _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def bearer_token(environment: Mapping[str, str] = os.environ, variable: str = "FUSERY_TOKEN") -> str:
    """Return the token of the environment; empty if there is none.

    Args:
        environment: the variables.
        variable: holds the token; the variable with the suffix `_FILE` names a file that holds it.

    Raises:
        BadInputError: the token is invalid.
    """
    token = environment.get(variable, "").strip()
    file = environment.get(f"{variable}_FILE", "")
    if not token and file:
        path = Path(file).expanduser()
        with os_failures(f"read {path}", near=path), path.open("rb") as opened:
            token = opened.read(8_192).decode("ascii", "replace").strip()
        if not token:
            raise BadInputError(f"{path} is empty", hint=f"{variable}_FILE must name a file with a token")
    return checked_token(token, f"check {variable} or {variable}_FILE") if token else ""


def checked_token(token: str, hint: str = "give the token that fusery token create printed") -> str:
    """Return a token after validation.

    Raises:
        BadInputError: it is invalid.
    """
    if not _TOKEN.fullmatch(token):
        raise BadInputError("invalid token", hint=hint)
    return token


def required_token(environment: Mapping[str, str] = os.environ) -> str:
    """Return the token for a server from the environment.

    Raises:
        BadInputError: the environment has no token, or an invalid one.
    """
    token = bearer_token(environment)
    if not token:
        raise BadInputError(
            "the server needs a token",
            hint="set FUSERY_TOKEN, or FUSERY_TOKEN_FILE to a file that holds it",
        )
    return token


def trusted_certificates() -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates of `FUSERY_CA_FILE`, or the system's.

    Raises:
        MissingFileError, BadInputError: the file does not exist, or has no certificates.
    """
    import ssl  # 10 ms

    file = os.environ.get("FUSERY_CA_FILE") or None
    if file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=file)
    except FileNotFoundError as error:
        raise MissingFileError(f"file not found: {file}", hint="check FUSERY_CA_FILE") from error
    except (ssl.SSLError, OSError) as error:
        raise BadInputError(f"no certificates in {file}", hint="check FUSERY_CA_FILE") from error
