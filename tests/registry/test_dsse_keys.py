"""Keys: making a pair, reading what is one, refusing in a sentence what is none."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path

import pytest
import signing_keys
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fusery.registry.dsse import key_id, make_pair, read_private_key, read_public_key
from fusery.registry.errors import BadInputError
from fusery.storage.errors import MissingFileError


def test_a_pair_is_for_its_owner_alone(tmp_path: Path) -> None:
    for umask in (0o000, 0o022, 0o077):
        before = os.umask(umask)
        try:
            made = make_pair(tmp_path / f"{umask}.pem", None)
        finally:
            os.umask(before)
        assert stat.S_IMODE(made.private_key.stat().st_mode) == 0o600
    assert made.public_key == made.private_key.with_suffix(".pub")
    assert key_id(read_public_key(made.public_key)) == made.key_id
    assert sha256(made.public_key.read_bytes()).hexdigest() == made.key_id
    assert key_id(read_private_key(made.private_key, bytes).public_key()) == made.key_id


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    made = make_pair(tmp_path / "me.pem", None)
    before = made.private_key.read_bytes()
    with pytest.raises(BadInputError):
        make_pair(tmp_path / "me.pem", None)
    assert made.private_key.read_bytes() == before
    made.private_key.unlink()
    with pytest.raises(BadInputError):
        make_pair(tmp_path / "me.pem", None)
    assert not made.private_key.exists()


def test_a_locked_pair(tmp_path: Path) -> None:
    made = make_pair(tmp_path / "me", b"secret")
    assert b"ENCRYPTED" in made.private_key.read_bytes()
    assert key_id(read_private_key(made.private_key, lambda: b"secret").public_key()) == made.key_id
    with pytest.raises(BadInputError):
        read_private_key(made.private_key, lambda: b"")


def test_what_is_no_key(tmp_path: Path) -> None:
    pair = signing_keys.write_pair(tmp_path)
    place = tmp_path / "other.pem"
    pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    others = (
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP256K1()),
    )
    for key in others:
        place.write_bytes(key.private_bytes(*pem))
        with pytest.raises(BadInputError):
            read_private_key(place, bytes)
        place.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(BadInputError):
            read_public_key(place)
    with pytest.raises(BadInputError, match="public"):
        read_private_key(pair.public, bytes)
    with pytest.raises(BadInputError):
        read_public_key(pair.private)
    fake = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    for content in (b"", b"x" * 100, b"\0" * 100_000, fake):
        place.write_bytes(content)
        with pytest.raises(BadInputError):
            read_public_key(place)
        with pytest.raises(BadInputError):
            read_private_key(place, bytes)
    with pytest.raises(MissingFileError):
        read_public_key(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingFileError):
        read_private_key(tmp_path / "pipe", bytes)
