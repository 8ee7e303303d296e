"""Secrets that a user gave, kept out of errors (`masked`), reports (`redact`), records and foreign exceptions."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

_HARMLESS = frozenset(
    {
        "endpoint_url", "endpoint", "region_name", "region", "project", "account_name", "account_host", "host", "port", "username", "user",
        "profile", "anon", "use_ssl", "location_mode", "signature_version", "addressing_style", "default_location",
        "known_hosts", "client_keys", "tenant_id", "verify",
    }
)  # fmt: skip
"""Options that are no secret; every other text among a store's options is taken for one."""

_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET",
)  # fmt: skip

_SHORTEST = 6
"""Characters; shorter texts may be ordinary words."""

_LOGGERS = ("fsspec", "botocore", "sshfs", "asyncssh")

# A password may have slashes in it that ought to be spelled otherwise; digits before one are a port.
# One slash is what is left of two in a path; what stands there without a password is part of one.
_USER = re.compile(
    r"(?<=://)(?:[^\s:/?#@]*:(?!\d*/)[^\s]*|[^/?#\s]*)@|(?<=:/)(?!/)[^\s:/?#@]+:(?!\d*/)[^\s]*@"
)
_PARAMETER = re.compile(
    r"([?&](?:[\w.-]{0,40}?(?:[_.-]|(?<=[a-z\d])(?=[A-Z])))?"
    r"(?i:(?:api|access|secret|private)?(?:token|key|secret)|sig|signature|pass|passw(?:or)?d|passphrase|pwd|auth|authorization|credentials?)"
    r"(?:[_.A-Z\d-][\w.-]{0,40})?)=[^&#\s\"\\]*"
)
"""Parameters of a query that say by a whole word that they are a secret: `access_token`, not `tokenizer`."""

# One slash is what is left of two in a path.
_PASSWORD = re.compile(r"(:/{1,2}[^\s:/?#@'\"]*):(?!\d*/)[^\s'\"]*@")
_TOKEN = re.compile(r"(https?:/{1,2})[^\s:/?#@'\"]+@", re.IGNORECASE)
_OWN = re.compile(r"fusery_(?=[a-z0-9_-]*[A-Z])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
"""A token that fusery made, which people paste where it does not belong; a name has no capitals."""

_INPUT = re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL)
"""What pydantic repeats of a value, cut to a length at which it cannot be found any more."""

_SECRET_NAME = re.compile(
    r"(?!.*(?:file|path|dir|folder)\Z).*(?:token|secret|passw|passphrase|(?:api|access|account|private)_?key|_sas|connection_string)",
    re.IGNORECASE,
)
"""Names of variables of the environment whose values are secrets, and not the paths of such."""

_registered: set[str] = set()
_lock = threading.Lock()


def remember(options: Mapping[str, Any]) -> None:
    """Note the secrets among a store's options, and in the environment, for `redact`."""
    secret_texts = set(_texts(options))
    for name in _ENVIRONMENT:
        secret_texts.update(_texts({name: os.environ.get(name, "")}))
    with _lock:
        for text in secret_texts:
            _registered.update(one for one in _forms(text) if len(one) >= _SHORTEST)
    # Before the root's handlers: a record passes the handlers of its own logger and of the parents first.
    for logger in map(logging.getLogger, _LOGGERS):
        if _redactor not in logger.handlers:
            logger.addHandler(_redactor)


def remember_given(words: Iterable[str], environment: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Note every secret that the user gave this run, for `redact`."""
    secret_options: dict[str, object] = {}
    for name, value in {**settings, **environment}.items():
        if "store_options" in name.casefold():
            secret_options[name] = _options(value)
        elif isinstance(value, str):
            secret_options[name] = [value] if _SECRET_NAME.match(name) else _of_url(value)
    remember({"words": [part for word in words for part in _of_url(word)], **secret_options})


def masked(text: str) -> str:
    """Return a text without passwords, tokens and keys in its URLs; user names stay."""
    if ":/" not in text:
        return text
    return _PARAMETER.sub(r"\1=***", _TOKEN.sub(r"\1***@", _PASSWORD.sub(r"\1:***@", text)))


def redact(text: str) -> str:
    """Return a text with every known secret in it replaced, and what URLs and pydantic repeat of others."""
    with _lock:
        secrets = sorted(_registered, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, "***")
    return masked(_OWN.sub("fusery_***", _INPUT.sub("input_value=***", text)))


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
    """Return a JSON value without users, passwords, tokens and keys in URLs, and without fusery's own tokens."""
    if isinstance(value, Mapping):
        return {key: without_credentials(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_credentials(entry) for entry in value]
    if not isinstance(value, str):
        return value
    text = _OWN.sub("fusery_***", value)
    return _PARAMETER.sub(r"\1=***", _USER.sub("", text)) if ":/" in text else text


def _options(value: Any) -> Any:
    """Return options of a store, which the environment has as JSON; of invalid JSON, every text between quotes."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return [value, *re.findall(r"[^\s\"'{}\[\],:]+", value)]


def _of_url(text: str) -> list[str]:
    """Return the credentials in a URL, or in the first of a text: password or token, and what its query calls a key."""
    before, separator, rest = text.partition("://")
    if not separator:
        return []
    secrets = [match[0].partition("=")[2] for match in _PARAMETER.finditer(rest)]
    # A password may have slashes in it that ought to be spelled otherwise: everything up to the last @ is looked at.
    user = rest.partition("?")[0].rpartition("@")[0]
    name, colon, password = user.partition(":")
    if colon:
        # What follows an @ in it is shown by drivers as a part of the host.
        secrets += [password, *password.split("@")]
    elif before.casefold() in ("http", "https"):
        secrets.append(name)
    return secrets


def _forms(text: str) -> Iterator[str]:
    """Yield a secret in every spelling that a message may have: encoded, as JSON, by line or part of a signed URL."""
    pairs = (part.partition("=") for part in re.split("[;&?]", text))
    shown = [value for name, _, value in pairs if name in ("AccountKey", "SharedAccessSignature", "sig")]
    for part in (text, *(line.strip() for line in text.splitlines()), *shown):
        yield from (part, quote(part, safe=""), unquote(part), json.dumps(part)[1:-1], repr(part)[1:-1])


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
