"""The secret of whoever delivers, and the signatures that it makes, in the form of Standard Webhooks (standardwebhooks.com).

A key is derived from the secret by HKDF (RFC 5869) with SHA-256, for one webhook and one URL: no row has it, one receiver's
key says nothing of another's, and whoever changes the URL in the database gets nothing signed that the receiver of before
would take.  The secret is never read from a database or a home folder, which may be somebody else's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusery.storage.failures import opened

from ..errors import BadInputError

SECRET, SECRET_FILE = "FUSERY_WEBHOOK_SECRET", "FUSERY_WEBHOOK_SECRET_FILE"
PRIVATE = "FUSERY_WEBHOOK_PRIVATE"

_SHORTEST = 32
_LARGEST = 64 << 10
_MOST = 4
_SALT = b"fusery.webhook.v1"
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


class NoWebhookSecretError(BadInputError):
    """The environment has no secret for signing webhooks."""


@dataclass(frozen=True, slots=True)
class Deliverer:
    """The secrets that make signing keys, the current one first, and whether private networks may be reached."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    private: bool = False

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Deliverer:
        """Read the environment."""
        values = os.environ if environment is None else environment
        private = values.get(PRIVATE, "").strip().casefold()
        if private not in (*_YES, *_NO):
            raise BadInputError(f"{PRIVATE} is neither 1 nor 0", hint=f"export {PRIVATE}=1")
        text, file = values.get(SECRET, ""), values.get(SECRET_FILE, "")
        if text.strip() and file:
            raise BadInputError(f"{SECRET} and {SECRET_FILE} are both set", hint=f"unset {SECRET}")
        if file:
            with opened(Path(file)) as content:
                text = content.read(_LARGEST).decode(errors="replace")
        secrets = tuple(map(os.fsencode, text.split()))
        if any(len(secret) < _SHORTEST for secret in secrets) or len(secrets) > _MOST:
            raise BadInputError(
                f"the secret of webhooks should have {_SHORTEST} characters or more, and there should be at most {_MOST}",
                hint="make one: openssl rand -hex 32",
            )
        return cls(secrets, private in _YES)

    def require_secrets(self) -> tuple[bytes, ...]:
        """Return the secrets."""
        if not self.secrets:
            raise NoWebhookSecretError(
                "there is no secret to sign webhooks with in this environment",
                hint=f"export {SECRET_FILE}=FILE, made by: openssl rand -hex 32",
            )
        return self.secrets


def derive(secret: bytes, uid: str, url: str) -> bytes:
    """Return a webhook's signing key, 32 bytes."""
    extracted = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, f"{uid} {url}".encode() + b"\x01", hashlib.sha256)


def key_text(key: bytes) -> str:
    """Return a key as receivers are given it: `whsec_` and its Base64."""
    return "whsec_" + base64.b64encode(key).decode("ascii")


def headers(keys: Sequence[bytes], delivery: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the headers that prove who sent a body, and when.

    Args:
        keys: each signs: while a secret changes, the receiver knows one of two.
        delivery: id of the delivery, the same whenever it is tried.
        timestamp: seconds since 1970.
    """
    signed = f"{delivery}.{timestamp}.".encode() + body
    digests = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii") for key in keys)
    return {
        "Webhook-Id": delivery,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": " ".join(f"v1,{digest}" for digest in digests),
    }
