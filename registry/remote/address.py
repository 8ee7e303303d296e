"""Addresses of servers, tokens of the environment, and trusted certificates."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fusery.storage.failures import os_failures
from fusery.storage.publishing import write_atomically

from ..errors import BadInputError

if TYPE_CHECKING:
    import ssl


_TOKEN = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of a server; a path is the prefix of the API's paths behind a proxy."""

    url: str
    host: str
    port: int | None
    path: str
    secure: bool

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False, variable: str = "FUSERY_TOKEN") -> ServerAddress:
        """Parse the URL of a server; `variable` is the environment variable of its token."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _invalid(text) from error
        if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
            raise _invalid(text)
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Not repeated: there may be a password in it.
            problem = "the URL of a server must not contain a user, a password, a query or a fragment"
            raise BadInputError(problem, hint=f"set the token in {variable} or {variable}_FILE")
        secure = parts.scheme == "https"
        if not (secure or insecure or is_loopback(host)):
            problem = f"the token would be sent to {host} without encryption"
            raise BadInputError(problem, hint="use https://, or --insecure-http")
        path = parts.path.rstrip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{path}", host, port, path, secure)


def _invalid(url: str) -> BadInputError:
    # A text with one of these characters may contain a password.
    shown = "" if any(sign in url for sign in "@?#") else f": {url[:80]!r}"
    return BadInputError(f"invalid server URL{shown}", hint="write it as https://HOST or https://HOST:PORT")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def bearer_token(environment: Mapping[str, str] = os.environ, variable: str = "FUSERY_TOKEN") -> str:
    """Return the token in a variable, or in the file that the variable with the suffix `_FILE` names; empty without."""
    token = environment.get(variable, "").strip()
    file = environment.get(f"{variable}_FILE", "")
    if not token and file:
        path = Path(file).expanduser()
        with os_failures(f"read {path}", near=path), path.open("rb") as opened:
            token = opened.read(8_192).decode("ascii", "replace").strip()
        if not token:
            raise BadInputError(f"{path} is empty", hint=f"{variable}_FILE must name a file with a token")
    return checked_token(token, f"check {variable} or {variable}_FILE") if token else ""


def checked_token(token: str, hint: str = "give the token that fusery admin token create printed") -> str:
    """Return a token, or raise `BadInputError` if it is invalid."""
    if not _TOKEN.fullmatch(token):
        raise BadInputError("invalid token", hint=hint)
    return token


def trusted_certificates() -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates of `FUSERY_CA_FILE`, or the system's."""
    import ssl  # 10 ms

    file = os.environ.get("FUSERY_CA_FILE") or None
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise BadInputError(f"cannot read certificates: {file}", hint="check FUSERY_CA_FILE") from error


_SERVICE = "fusery"


def token_for(url: str) -> str:
    """Return the token for a server: from `FUSERY_TOKEN`, from `FUSERY_TOKEN_FILE`, or the stored one."""
    if token := bearer_token() or _read().get(url):
        return token
    keyring = _keyring()
    if keyring is not None and (token := keyring.get_password(_SERVICE, url)):
        return str(token)
    raise BadInputError(f"token not found for {url}", hint=f"fusery login {url}")


def store_token(url: str, token: str) -> str:
    """Store or replace the token for a server, and return its location."""
    checked_token(token)
    keyring = _keyring()
    if keyring is not None:
        keyring.set_password(_SERVICE, url, token)
        _write({stored_url: value for stored_url, value in _read().items() if stored_url != url})
        return "the system's keyring"
    _write({**_read(), url: token})
    return str(tokens_file())


def forget_token(url: str) -> bool:
    """Remove the stored token for a server, and return whether there was one."""
    tokens = _read()
    is_removed = tokens.pop(url, None) is not None
    if is_removed:
        _write(tokens)
    keyring = _keyring()
    if keyring is not None and keyring.get_password(_SERVICE, url) is not None:
        keyring.delete_password(_SERVICE, url)
        is_removed = True
    return is_removed


def tokens_file() -> Path:
    """Return the path of the file with tokens."""
    import platformdirs

    return Path(platformdirs.user_config_dir("fusery", appauthor=False)) / "tokens.json"


def _read() -> dict[str, str]:
    path = tokens_file()
    try:
        tokens = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        tokens = None
    if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens.values()):
        raise BadInputError(f"invalid token file: {path}", hint="remove it, and run fusery login URL again")
    return tokens


def _write(tokens: dict[str, str]) -> None:
    path = tokens_file()
    if not tokens:
        path.unlink(missing_ok=True)
        return
    with os_failures(f"write {path}", near=path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, json.dumps(tokens).encode(), mode=0o600)


def _keyring() -> Any:
    """Return the system's keyring; None without one, or without the extra `keyring`."""
    try:
        if sys.platform == "darwin":
            from keyring.backends.macOS import Keyring
        else:
            from keyring.backends.SecretService import Keyring
    except ImportError:
        return None
    return Keyring() if Keyring.viable else None
