"""Where a server for a registry is, what it is known by, and the token that opens it: from the environment, and from nowhere else."""

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
    """Where a server is.

    Attributes:
        url: as it is shown.
        host: its name or address.
        port: its port; None for the usual one.
        path: before every path of the API, where a proxy has it below one.
        secure: over TLS.
    """

    url: str
    host: str
    port: int | None
    path: str
    secure: bool

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False, variable: str = "FUSERY_TOKEN") -> ServerAddress:
        """Return where a URL leads.

        Args:
            text: the URL.
            insecure: a token may go over a network as it is.
            variable: the environment variable that the token is in.

        Raises:
            BadInputError: it is no such URL, has a password in it, or leads over a network without TLS.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise BadInputError("this is no URL of a server", hint="https://HOST") from error
        if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
            raise BadInputError("this is no URL of a server", hint="https://HOST")
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Not repeated: there may be a password in it.
            raise BadInputError(
                "the URL of a server has no name, password or query in it",
                hint=f"the token belongs into {variable} or {variable}_FILE",
            )
        secure = parts.scheme == "https"
        if not (secure or insecure or _is_loopback(host)):
            raise BadInputError(
                f"the token would go to {host} as it is, for all on the way to read",
                hint="https://, or --insecure-http",
            )
        path = parts.path.rstrip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{path}", host, port, path, secure)

    @property
    def loopback(self) -> bool:
        """It is on this machine."""
        return _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def bearer_token(environment: Mapping[str, str] = os.environ, variable: str = "FUSERY_TOKEN") -> str:
    """Return the token that the environment gives, or the file that it names; empty where it gives none.

    Args:
        environment: the variables.
        variable: the one with the token; the one with `_FILE` at its end names a file that has it.

    Raises:
        BadInputError: what there is cannot be one.
    """
    token = environment.get(variable, "").strip()
    file = environment.get(f"{variable}_FILE", "")
    if not token and file:
        path = Path(file).expanduser()
        with os_failures(f"read {path}", near=path), path.open("rb") as opened:
            token = opened.read(8_192).decode("ascii", "replace").strip()
        if not token:
            raise BadInputError(f"{path} is empty", hint=f"{variable}_FILE names a file with a token in it")
    return checked_token(token, f"{variable} or {variable}_FILE") if token else ""


def checked_token(token: str, hint: str = "what fusery token create showed") -> str:
    """Return a token.

    Raises:
        BadInputError: it cannot be one.
    """
    if not _TOKEN.fullmatch(token):
        raise BadInputError("what is given as the token is none", hint=hint)
    return token


def required_token(environment: Mapping[str, str] = os.environ) -> str:
    """Return the token for a server of a registry.

    Raises:
        BadInputError: there is none, or what there is cannot be one.
    """
    token = bearer_token(environment)
    if not token:
        raise BadInputError(
            "a server wants a token, and there is none",
            hint="set FUSERY_TOKEN, or FUSERY_TOKEN_FILE to a file that has it",
        )
    return token


def trusted_certificates() -> ssl.SSLContext:
    """Return what certificates are verified with: those of `FUSERY_CA_FILE`, or the system's.

    Raises:
        MissingFileError, BadInputError: there is no such file, or no certificate in it.
    """
    import ssl  # 10 ms

    file = os.environ.get("FUSERY_CA_FILE") or None
    if file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=file)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {file}", hint="FUSERY_CA_FILE names it") from error
    except (ssl.SSLError, OSError) as error:
        raise BadInputError(f"{file} holds no certificates", hint="FUSERY_CA_FILE names it") from error
