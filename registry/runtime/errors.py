"""Errors of documents, adapters and requests."""

from __future__ import annotations


class ServingError(Exception):
    """An error that the operator must correct; the message is one sentence."""


class DocumentError(ServingError):
    """Invalid `serving.json`."""


class AddressError(ServingError):
    """An address cannot be listened on."""


class AdapterError(ServingError):
    """An adapter cannot be put on the base."""


class EngineError(ServingError):
    """The base cannot be loaded, or generation has died."""


class Refusal(Exception):
    """A refused request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Make OpenAI's error document; `param` is the invalid field and `code` OpenAI's code."""
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        error = {
            "message": message,
            "type": "rate_limit_error" if status == 429 else kind,
            "param": param,
            "code": code,
        }
        self.document: dict[str, object] = {"error": error}
        self.headers = headers or {}


def invalid(field: str, why: str, code: str | None = None) -> Refusal:
    """Return the refusal of a request for one of its fields."""
    return Refusal(400, f"{field}: {why}", param=field, code=code)


def sentence(error: BaseException) -> str:
    """Return at most 300 characters of the beginning of a library's error message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]
