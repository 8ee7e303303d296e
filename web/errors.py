"""Errors of requests to the server."""

from __future__ import annotations

from typing import ClassVar

from fusery.registry.errors import RegistryError


class RequestError(RegistryError):
    """A request is refused, with an HTTP status."""

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


class FormError(RequestError):
    """The form was not sent from a page of this server."""

    code, status = "form_not_ours", 403


class TooOftenError(RequestError):
    """The client sends too many requests."""

    code, status = "too_often", 429


class LengthError(RequestError):
    """The request needs a Content-Length."""

    code, status = "length_needed", 411


class HostError(RequestError):
    """The request is for another host, or a page of another origin sent it."""

    code, status = "host_not_ours", 403


class TooSlowError(RequestError):
    """The request's body did not arrive in time."""

    code, status = "too_slow", 408


class TooMuchError(RequestError):
    """The request's body is too large."""

    code, status = "too_much", 413


class UnexpectedError(RequestError):
    """The server failed: an error in fusery, or an edited database."""

    code, status = "unexpected", 500
