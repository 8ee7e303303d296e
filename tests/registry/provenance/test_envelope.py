"""Signed statements: the library that others verify with takes them, with the right key and no other, and unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from fusery.registry import Registry
from fusery.registry.dsse import Pair, make_pair
from fusery.registry.errors import BadInputError

Everything = tuple[Registry, dict[str, str]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("keys") / "release.pem", None)


def public(pair: Pair) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(pair.public_key.read_bytes()), keyid=pair.key_id)


@pytest.mark.parametrize("form", ["slsa", "cyclonedx"])
def test_a_verifier_takes_it_as_it_is(form: str, pair: Pair, withdrawn: Everything, tmp_path: Path) -> None:
    attest = withdrawn[0].provenance.attest
    made = attest("course_rec@1", form=form, key=pair.private_key)
    envelope = Envelope.from_dict(json.loads(made.data))
    assert list(envelope.verify([public(pair)], 1)) == [pair.key_id] == [made.key_id]
    assert envelope.payload == attest("course_rec@1", form=form).data
    assert "PRIVATE" not in made.data.decode()
    other = make_pair(tmp_path / "other.pem", None)
    with pytest.raises(VerificationError):
        envelope.verify([public(other)], 1)
    envelope.payload = envelope.payload.replace(b"course_rec_v1", b"course_rec_v7")
    with pytest.raises(VerificationError):
        envelope.verify([public(pair)], 1)


def test_locked_and_invalid_keys(pair: Pair, withdrawn: Everything, tmp_path: Path) -> None:
    locked = make_pair(tmp_path / "locked.pem", b"open sesame")
    attest = withdrawn[0].provenance.attest
    made = attest("course_rec@1", key=locked.private_key, passphrase=lambda: b"open sesame")
    assert Envelope.from_dict(json.loads(made.data)).verify([public(locked)], 1)
    (tmp_path / "none.pem").write_text("nothing")
    for path in (locked.private_key, tmp_path / "none.pem", pair.public_key):
        with pytest.raises(BadInputError):
            attest("course_rec@1", key=path, passphrase=lambda: b"wrong")
