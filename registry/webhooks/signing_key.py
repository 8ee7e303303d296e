"""The key that signs what a webhook is sent, and the signature in the form of Standard Webhooks (standardwebhooks.com).

A key is derived from the deliverer's secret by HKDF (RFC 5869) with SHA-256, for one webhook and one URL: no row has it, one
receiver's key says nothing of another's, and whoever changes the URL in the database gets nothing signed that the receiver of
before would take.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence

_SALT = b"fusery.webhook.v1"
PREFIX = "whsec_"
"""What Standard Webhooks begins the text of a key with."""


def derive(secret: bytes, uid: str, url: str) -> bytes:
    """Return a webhook's signing key, 32 bytes.

    Args:
        secret: of the deliverer.
        uid: of the webhook.
        url: that it sends to.
    """
    extracted = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, f"{uid} {url}".encode() + b"\x01", hashlib.sha256)


def key_text(key: bytes) -> str:
    """Return a key as receivers are given it: `whsec_` and its Base64."""
    return PREFIX + base64.b64encode(key).decode("ascii")


def headers(keys: Sequence[bytes], delivery: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the headers by which a receiver knows that a body is from here, and when it was sent.

    Args:
        keys: whose signatures it gets, so that either of two may be known to the receiver while a secret changes.
        delivery: id of the delivery, the same whenever it is tried.
        timestamp: seconds since 1970.
        body: that is sent.
    """
    signed = f"{delivery}.{timestamp}.".encode() + body
    made = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii") for key in keys)
    return {
        "Webhook-Id": delivery,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": " ".join(f"v1,{signature}" for signature in made),
    }
