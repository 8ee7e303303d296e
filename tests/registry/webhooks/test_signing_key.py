"""Signatures as Standard Webhooks has them, and keys that say nothing of one another."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.webhooks.signing import derive, headers, key_text

SECRETS = st.binary(min_size=32, max_size=64)


def test_the_signature_is_that_of_the_published_libraries() -> None:
    """The vector that the libraries of standardwebhooks.com test themselves with."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert key_text(key) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@given(SECRETS, st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_key_is_what_hkdf_gives(secret: bytes, uid: str) -> None:
    url = "https://hooks.example.org/"
    library = HKDF(hashes.SHA256(), 32, b"fusery.webhook.v1", f"{uid} {url}".encode())
    assert derive(secret, uid, url) == library.derive(secret)


def test_each_of_several_secrets_signs() -> None:
    both = headers([b"a" * 32, b"b" * 32], "msg_1", 7, b"{}")["Webhook-Signature"].split()
    assert both == [headers([key], "msg_1", 7, b"{}")["Webhook-Signature"] for key in (b"a" * 32, b"b" * 32)]
