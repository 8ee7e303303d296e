"""The client of a server's API: one request for each operation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fusery.storage.errors import FormatError, FuseryError
from fusery.storage.jsonfile import MAX_DEPTH, parse_json

from ..record import Record
from ..wire import decode, encode
from .client import HttpClient
from .failures import failure

API = "/api/v1"

LONG = 900.0
"""The timeout of an operation in seconds."""


MOST_VALUES = 2_000_000
"""Values in a response: what is parsed takes up to thirty times the memory of its text."""


class Server(HttpClient):
    """The client of a server's API."""

    def ask(self, path: str, arguments: Mapping[str, Any], returns: Any, *, writes: bool) -> Any:
        """Run an operation on the server, and return its result.

        Args:
            path: the operation, `RESOURCE/NAME`.
            arguments: the arguments by name.
            returns: the type of the result.
            writes: whether it changes records; such a request is not retried after a lost response.

        Raises:
            FuseryError: the operation failed; the class is the same as on a local registry.
            ServerUnavailableError: the server did not answer.
            ServerRefusedError: the server refused the token, or is not a fusery server.
        """
        given = {name: _sent(value) for name, value in arguments.items() if name != "reporter"}
        if writes:
            body = json.dumps(given).encode()
            data = self.request("POST", f"{API}/{path}", body, timeout=LONG, repeat=False, accept=_is_record)
        else:
            data = self.request("GET", f"{API}/{path}", params=_query(given), timeout=LONG)
        return self.decoded(returns, data)

    def decoded(self, returns: Any, data: bytes) -> Any:
        """Return a result from its JSON.

        Raises:
            ServerRefusedError: the JSON does not fit the type.
        """
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
        return [_sent(each) for each in value]
    return encode(value)


def _query(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return arguments as query parameters: repeat lists' values, write mappings as `NAME=VALUE`."""
    found: list[tuple[str, str]] = []
    for name, value in given.items():
        several = value if isinstance(value, list) else [value]
        if isinstance(value, Mapping):
            several = [f"{key}={each}" for key, each in value.items()]
        found += [
            (name, each if isinstance(each, str) else json.dumps(each))
            for each in several
            if each is not None
        ]
    return found
