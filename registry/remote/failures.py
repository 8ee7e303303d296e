"""Errors of a server as exceptions of the same classes."""

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
_LONGEST = 2_000
_DETAILS: Mapping[str, Any] = {"findings": tuple[Finding, ...], "position": int, "excerpt": tuple[str, str]}
"""Attributes of errors that the server sends, and their types."""


class ServerError(FuseryError):
    """An error that this version does not know."""


def failure(error: Mapping[str, Any], token: str) -> FuseryError:
    """Return the error that a server reports; its text is data, and shown as such.

    Args:
        error: as JSON.
        token: hidden in the messages.

    Raises:
        KeyError, TypeError, ValueError: the JSON is of something else.
    """
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


def details_of(error: FuseryError) -> dict[str, Any]:
    """Return the attributes of an error that clients get."""
    return {name: encode(getattr(error, name)) for name in _DETAILS if hasattr(error, name)}


def shown(text: str, token: str) -> str:
    """Return text of a server without the token and control characters, and not too long."""
    hidden = text.replace(token, "...") if token else text
    return _CONTROL.sub(" ", hidden)[:_LONGEST]


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
