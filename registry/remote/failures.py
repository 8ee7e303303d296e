"""Errors of a server, read back into the classes that they had there."""

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
"""Modules with errors of their own, those that take long to import last."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SAID = 2_000
_DETAILS: Mapping[str, Any] = {"findings": tuple[Finding, ...], "position": int, "excerpt": tuple[str, str]}
"""Attributes of errors that clients get, and their types."""


class ServerError(FuseryError):
    """An error that only the server's version knows."""


def failure(told: Mapping[str, Any], token: str) -> FuseryError:
    """Return the error that a server tells of; its text is data, and shown as such.

    Args:
        told: the error as JSON.
        token: that is repeated in no message.

    Raises:
        KeyError, TypeError, ValueError: that is no error of a server.
    """
    code, message, hint = told["code"], told["message"], told.get("hint") or None
    if not (isinstance(code, str) and isinstance(message, str) and isinstance(hint, str | None)):
        raise TypeError("no error")
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
    """Return what an error has besides its sentences, for the client."""
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
    """Yield all kinds of errors, the general ones first."""
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)
