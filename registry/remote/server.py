"""A server for a registry: each operation is one request, and its record or its error comes back."""

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
"""Seconds that a server may take for an operation."""


MOST_VALUES = 2_000_000
"""Values in a response: what is parsed takes up to thirty times the memory of its text."""


class Server(HttpClient):
    """Requests to a server for a registry."""

    def ask(self, path: str, arguments: Mapping[str, Any], returns: Any, *, writes: bool) -> Any:
        """Run an operation, and return its record.

        Args:
            path: of the operation, `RESOURCE/NAME`.
            arguments: by name.
            returns: the type of the result.
            writes: it changes records, and is not sent again if its response is lost.

        Raises:
            FuseryError: of the class that the same call raises on a local registry.
            ServerUnavailableError: the server did not answer.
            ServerRefusedError: it refuses the token, or is no fusery server.
        """
        given = {name: _sent(value) for name, value in arguments.items() if name != "reporter"}
        if writes:
            body = json.dumps(given).encode()
            data = self.request("POST", f"{API}/{path}", body, timeout=LONG, repeat=False, accept=_is_record)
        else:
            data = self.request("GET", f"{API}/{path}", params=_query(given), timeout=LONG)
        return self.decoded(returns, data)

    def decoded(self, returns: Any, data: bytes) -> Any:
        """Return a record from its JSON.

        Raises:
            ServerRefusedError: the JSON is of something else.
        """
        try:
            return decode(returns, _parsed(data))
        except (ValueError, RecursionError, FormatError) as error:
            raise self.strange() from error

    def error(self, status: int, data: bytes) -> FuseryError:
        """Return the error that the server raised."""
        try:
            return failure(_parsed(data)["error"], self.token)
        except (ValueError, KeyError, TypeError, RecursionError, FormatError):
            return self.strange()


def _is_record(status: int, data: bytes) -> bool:
    """Tell whether a refusal is a record: a refused promotion lists the rules that do not hold."""
    if status == 409:
        with suppress(FormatError):
            record = _parsed(data)
            return isinstance(record, dict) and "error" not in record
    return False


def _parsed(data: bytes) -> Any:
    return parse_json(data, "the response", most=MOST_VALUES, deepest=2 * MAX_DEPTH)


def _sent(value: Any) -> Any:
    """Return an argument as JSON: of a record, the reference to it."""
    if isinstance(value, Record) and value.REFERENCE:
        return getattr(value, value.REFERENCE)
    if isinstance(value, list | tuple | set | frozenset):
        return [_sent(each) for each in value]
    return encode(value)


def _query(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return arguments as a query: lists as repeated values, mappings as `NAME=VALUE`."""
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
