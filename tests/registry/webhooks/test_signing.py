"""Waiting, the deliverer's environment, and signatures as Standard Webhooks has them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.errors import BadInputError
from fusery.registry.webhooks.delivering import Manner
from fusery.registry.webhooks.sending import Deliverer, NoWebhookSecretError, derive, headers, key_text
from fusery.storage.errors import MissingFileError, StorageError


@given(st.integers(1, 10_000) | st.sampled_from([0, 1 << 70]))
def test_pauses_double_up_to_an_hour(attempts: int) -> None:
    law = min(3600.0, 2.0 ** min(max(attempts, 1) - 1, 20))
    assert 0.75 * law <= Manner(Deliverer()).pause(attempts) <= law


FIRST, SECOND = "f" * 32, "s" * 40


def load(**said: str) -> Deliverer:
    return Deliverer.load({f"FUSERY_WEBHOOK_{name.upper()}": value for name, value in said.items()})


def test_nothing_is_known_and_nothing_private_reached_by_itself() -> None:
    assert load() == load(secret="  ", private="0") == load(private="yes") == Deliverer()
    assert load(private="1") == Deliverer(private=True)
    with pytest.raises(NoWebhookSecretError):
        load().require_secrets()


def test_a_secret_is_in_the_environment_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{FIRST}\n{SECOND}\n", encoding="utf-8")
    assert load(secret=FIRST).secrets == (FIRST.encode(),)
    assert load(secret_file=str(file)).secrets == (FIRST.encode(), SECOND.encode())
    assert FIRST not in repr(load(secret=FIRST))
    assert load(secret=SECOND, secret_file=str(file)).secrets == (SECOND.encode(),)
    with pytest.raises(StorageError):
        load(secret_file=str(tmp_path / "nowhere"))
    with pytest.raises(MissingFileError):
        load(secret_file=str(tmp_path))


@pytest.mark.parametrize("secret", ["short", f"{FIRST} short", " ".join([FIRST] * 5)])
def test_secrets_that_are_short_or_many_are_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(BadInputError) as caught:
        load(secret=secret)
    assert "short" not in caught.value.message
    assert FIRST not in caught.value.message


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
