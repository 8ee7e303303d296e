"""Secrets of a store: what was given to open it, and how to keep it out of every text.

fusery's own messages name the class or code of a failure of another library, never its text.  The text remains in the
cause of the error, which `--debug` shows: there, an exception whose text holds a secret gives way to a stand-in.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

_HARMLESS = frozenset(
    {
        "endpoint_url", "region_name", "project", "account_name", "account_host", "host", "port", "username", "user",
        "profile", "anon", "use_ssl", "location_mode", "signature_version", "addressing_style", "default_location",
        "known_hosts", "client_keys", "tenant_id", "verify",
    }
)  # fmt: skip
"""Options that are no secret; every other text among a store's options is taken for one."""

_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET",
)  # fmt: skip

_SHORTEST = 6
"""Characters; what is shorter cannot be told from an ordinary word."""

_LOGGERS = (
    "fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google.auth", "adlfs", "azure", "sshfs", "asyncssh",
)  # fmt: skip

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_PARAMETER = re.compile(
    r"([?&][\w.-]{0,40}?(?:token|key|secret|sig|signature|password|credential)[\w.-]{0,40})=[^&#\s]*",
    re.IGNORECASE,
)

_known: set[str] = set()
_lock = threading.Lock()


def remember(options: Mapping[str, Any]) -> None:
    """Note the secrets among a store's options, and in the environment, for `redact`."""
    found = set(_texts(options))
    for name in _ENVIRONMENT:
        found.update(_texts({name: os.environ.get(name, "")}))
    with _lock:
        for text in found:
            _known.update(one for one in (text, *_parts(text)) if len(one) >= _SHORTEST)
    _quieten()


def redact(text: str) -> str:
    """Return a text with every known secret in it replaced."""
    with _lock:
        secrets = sorted(_known, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def without_secrets(error: BaseException) -> BaseException:
    """Return an exception, or a stand-in if its text or that of one it came from holds a secret."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    texts = [f"{type(one).__name__}: {one} {one!r}" for one in seen]
    if all(redact(text) == text for text in texts):
        return error
    return RuntimeError(redact(f"{type(error).__name__}: {error}"))


def without_credentials(value: Any) -> Any:
    """Return a JSON value whose texts have no user or password in any URL, nor what its query calls a token or a key."""
    if isinstance(value, Mapping):
        return {key: without_credentials(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_credentials(entry) for entry in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    return _PARAMETER.sub(r"\1=***", _USER.sub("", value))


def _parts(text: str) -> Iterator[str]:
    """Return what libraries take out of a connection string or a signed URL, and show by itself."""
    for part in re.split("[;&?]", text):
        name, _, value = part.partition("=")
        if name in ("AccountKey", "SharedAccessSignature", "sig"):
            yield from (value, quote(value, safe=""), unquote(value))


def _texts(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, str) and (name not in _HARMLESS or "\n" in value):
        yield value


class _Redactor(logging.Handler):
    """Rewrites what a library logs before any other handler of the program sees it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Replace secrets in the record itself; nothing is written."""
        text = record.getMessage()
        shown = redact(text)
        if shown != text:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[1] is not None:
            clean = without_secrets(record.exc_info[1])
            if clean is not record.exc_info[1]:
                record.exc_info = (type(clean), clean, None)
                record.exc_text = None


_redactor = _Redactor()


def _quieten() -> None:
    """Stand before the root's handlers: a record passes the handlers of its own logger and of the parents first.

    With a handler of their own, the libraries also no longer write to standard error by Python's last resort.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _redactor not in logger.handlers:
            logger.addHandler(_redactor)
