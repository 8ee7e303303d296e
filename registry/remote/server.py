"""The client of a server's API: one request for each operation; its errors are exceptions of the same classes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FormatError, FuseryError
from fusery.storage.jsonfile import MAX_DEPTH, parse_json

from ..adapters import Finding
from ..record import Record
from ..wire import decode, encode
from ..workspace.settings import Settings
from ..workspace.workspace import Workspace
from .address import ServerAddress, checked_token, token_for
from .client import HttpClient, shown

API = "/api/v1"

LONG = 900.0  # timeout of an operation in seconds

MOST_VALUES = 2_000_000  # values in a response, whose memory is up to thirty times its text


class Server(HttpClient):
    """The client of a server's API."""

    def ask(self, path: str, arguments: Mapping[str, Any], returns: Any, *, writes: bool) -> Any:
        """Run an operation on the server, and return its result; one that `writes` is not repeated after a lost response."""
        given = {name: _sent(value) for name, value in arguments.items() if name != "reporter"}
        if writes:
            body = json.dumps(given).encode()
            data = self.request("POST", f"{API}/{path}", body, timeout=LONG, repeat=False, accept=_is_record)
        else:
            data = self.request("GET", f"{API}/{path}", params=_query(given), timeout=LONG)
        return self.decoded(returns, data)

    def decoded(self, returns: Any, data: bytes) -> Any:
        """Return a result from its JSON, or raise `ServerRefusedError`."""
        try:
            return decode(returns, _parsed(data))
        except (ValueError, RecursionError, FormatError) as error:
            raise self.strange() from error

    def error(self, status: int, data: bytes) -> FuseryError:
        """Return the exception for an error response."""
        try:
            return failure(_parsed(data)["error"], self.token)
        except (ValueError, KeyError, TypeError, RecursionError, FormatError):
            return self.strange()


def _is_record(status: int, data: bytes) -> bool:
    """Return whether an error response is a record: a refused promotion lists the failed rules."""
    if status == 409:
        with suppress(FormatError):
            record = _parsed(data)
            return isinstance(record, dict) and "error" not in record
    return False


def _parsed(data: bytes) -> Any:
    return parse_json(data, "the response", most=MOST_VALUES, deepest=2 * MAX_DEPTH)


def _sent(value: Any) -> Any:
    """Return an argument as JSON; a record becomes its reference."""
    if isinstance(value, Record) and value.REFERENCE:
        return getattr(value, value.REFERENCE)
    if isinstance(value, list | tuple | set | frozenset):
        return [_sent(element) for element in value]
    return encode(value)


def _query(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return arguments as query parameters: repeat lists' values, write mappings as `NAME=VALUE`."""
    parameters: list[tuple[str, str]] = []
    for name, value in given.items():
        several = value if isinstance(value, list) else [value]
        if isinstance(value, Mapping):
            several = [f"{key}={entry}" for key, entry in value.items()]
        texts = [text if isinstance(text, str) else json.dumps(text) for text in several if text is not None]
        parameters += [(name, text) for text in texts]
    return parameters


def open_server(url: str, token: str | None, *, insecure_http: bool = False) -> tuple[Workspace, Server]:
    """Return the workspace of a server's local replica, and the server, without connecting; see `server_at`."""
    server = server_at(url, token, insecure=insecure_http)
    import platformdirs

    address, caches = server.address, Path(platformdirs.user_cache_dir("fusery", appauthor=False))
    settings = Settings.load(caches / "servers" / f"{address.host}-{digest_bytes(address.url.encode())[:12]}")
    # The environment's database and store are those of a local registry.
    return Workspace(replace(settings, database_url="", store_url="", store_options={})), server


def server_at(url: str, token: str | None = None, *, insecure: bool = False) -> Server:
    """Return a client of a server, without connecting; `insecure` allows sending the token without TLS."""
    address = ServerAddress.parse(url, insecure=insecure)
    return Server(address, token_for(address.url) if token is None else checked_token(token))


_MODULES = ("storage.errors", "registry.errors", "registry.admission.code")  # of exceptions; slow ones last
_DETAILS: Mapping[str, Any] = {"findings": tuple[Finding, ...], "position": int, "excerpt": tuple[str, str]}
"""Attributes of errors that the server sends, and their types."""


class ServerError(FuseryError):
    """The server reported an error code that this version does not know."""

    code = "error"


def failure(error: Mapping[str, Any], token: str) -> FuseryError:
    """Return the error that a server reports as JSON, with the token hidden in its text."""
    code, message, hint = error["code"], error["message"], error.get("hint") or None
    if not (isinstance(code, str) and isinstance(message, str) and isinstance(hint, str | None)):
        raise TypeError("invalid error")
    kind = _kind_of(code)
    raised = kind.__new__(kind)
    FuseryError.__init__(raised, shown(message, token), hint=hint and shown(hint, token))
    details = error.get("details") or {}
    if kind is ServerError:
        raised.code, raised.exit_code = code, 1 if error.get("exit_code") == 1 else 2  # type: ignore[misc]
    for name, kind_of in _DETAILS.items():
        if name in details:
            setattr(raised, name, decode(kind_of, details[name]))
    return raised


def details_of(error: FuseryError) -> dict[str, object]:
    """Return the attributes of an error that clients get."""
    return {name: encode(getattr(error, name)) for name in _DETAILS if hasattr(error, name)}


@cache
def _kind_of(code: str) -> type[FuseryError]:
    for name in _MODULES:
        importlib.import_module(f"fusery.{name}")
        if kind := next((kind for kind in _kinds(FuseryError) if kind.code == code), None):
            return kind
    return ServerError


def _kinds(kind: type[FuseryError]) -> Iterator[type[FuseryError]]:
    """Yield a class of errors and its subclasses, general ones first."""
    yield kind
    for subclass in kind.__subclasses__():
        yield from _kinds(subclass)
