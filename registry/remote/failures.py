"""Decode the errors of a server into fusery's exception classes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from fusery.storage.errors import FuseryError

from ..adapters.finding import Finding
from ..wire import decode, encode

_MODULES = (
    "storage.errors",
    "registry.errors",
    "registry.catalog.where.problem",
    "registry.admission.refusal",
)
"""Modules that define exceptions; those that are slow to import come last."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SAID = 2_000
_DETAILS: Mapping[str, Any] = {"findings": tuple[Finding, ...], "position": int, "excerpt": tuple[str, str]}
"""Attributes of errors that the server sends, and their types."""


class ServerError(FuseryError):
    """An error whose code this version does not know."""


def failure(told: Mapping[str, Any], token: str) -> FuseryError:
    """Return the exception for an error from a server; remove control characters from its text.

    Args:
        told: the error as JSON.
        token: the token, which is masked in the messages.

    Raises:
        KeyError, TypeError, ValueError: the JSON is not an error.
    """
    code, message, hint = told["code"], told["message"], told.get("hint") or None
    if not (isinstance(code, str) and isinstance(message, str) and isinstance(hint, str | None)):
        raise TypeError("invalid error")
    kind = _kind_of(code)
    error = kind.__new__(kind)
    FuseryError.__init__(error, _shown(message, token), hint=hint and _shown(hint, token))
    details = told.get("details") or {}
    if kind is ServerError:
        error.code, error.exit_code = code, 1 if told.get("exit_code") == 1 else 2  # type: ignore[misc]
    for name, of in _DETAILS.items():
        if name in details:
            setattr(error, name, decode(of, details[name]))
    return error


def details_of(error: FuseryError) -> dict[str, Any]:
    """Return an error's attributes for the client, besides message and hint."""
    return {name: encode(getattr(error, name)) for name in _DETAILS if hasattr(error, name)}


def _shown(text: str, token: str) -> str:
    hidden = text.replace(token, "...") if token else text
    return _CONTROL.sub(" ", hidden)[:_SAID]


@cache
def _kind_of(code: str) -> type[FuseryError]:
    for name in _MODULES:
        importlib.import_module(f"fusery.{name}")
        if kind := next((kind for kind in _kinds(FuseryError) if kind.code == code), None):
            return kind
    return ServerError


def _kinds(kind: type[FuseryError]) -> Iterator[type[FuseryError]]:
    """Yield an exception class and its subclasses, base classes first."""
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)
