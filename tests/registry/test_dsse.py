"""Keys, and signatures that are none: cut off, too large, hostile, or over something else than a list of files."""

from __future__ import annotations

import base64
import copy
import json
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import signing_keys
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import Pair

from fusery.registry.dsse import (
    IN_TOTO,
    LARGEST,
    BadSignatureError,
    Envelope,
    key_id,
    make_pair,
    parse_envelope,
    read_private_key,
    read_public_key,
    read_statement,
    sign_files,
)
from fusery.registry.errors import BadInputError
from fusery.registry.provenance.verify import KeyChecker, verify
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
    with pytest.raises(BadInputError):
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


FILES = {"a.txt": "0" * 64, "b/c.txt": "1" * 64}


@pytest.fixture
def signature(key: Pair) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sign_files("it", FILES, read_private_key(key.private, bytes)))
    return document


def refused(data: bytes) -> None:
    with pytest.raises(BadSignatureError) as error:
        read_statement(parse_envelope(data, "x.sig"))
    assert "\n" not in error.value.message and len(error.value.message) < 400


def test_a_good_one(signature: dict[str, Any], key: Pair, stranger: Pair) -> None:
    envelope = parse_envelope(json.dumps(signature).encode(), "x.sig")
    assert dict(read_statement(envelope).files) == FILES
    assert envelope.signed_by(KeyChecker.of(key.public).key)
    assert not envelope.signed_by(KeyChecker.of(stranger.public).key)


HOSTILE = [
    *(b"", b"null", b"[]", b"{}", b"[" * 50_000, b"\xff", b'{"mediaType": NaN}', b'{"a":1,"a":2}'),
    b'{"mediaType":' + b"9" * 5000 + b"}",
    b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": 1}',
    b'"' + b"x" * 200_000 + b'"',
]


def test_hostile_bytes_are_refused(signature: dict[str, Any], tmp_path: Path) -> None:
    data = json.dumps(signature).encode()
    for part in (*HOSTILE, *(data[:end] for end in [*range(0, len(data), 37), len(data) - 1])):
        refused(part)
    signature["verificationMaterial"]["tlogEntries"] = [0] * 600_000
    refused(json.dumps(signature).encode())
    (tmp_path / "it").mkdir()
    with (tmp_path / "it.sig").open("wb") as file:  # and a huge file is not read to its end
        file.truncate(LARGEST * 1000)
    (problem,) = verify(tmp_path / "it").problems
    assert "larger" in problem.message


Place = tuple[str | int, ...]
ENVELOPES: list[tuple[Place, Any]] = [
    (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.1"),
    *((("dsseEnvelope", "payload"), value) for value in ("%%%", 7)),
    *((("dsseEnvelope", "signatures"), value) for value in ([], [{"sig": ""}] * 2, {"sig": "x"})),
    *((("dsseEnvelope", "payloadType"), value) for value in (["text"], "text/plain")),
    *((("verificationMaterial",), value) for value in (None, {"publicKey": {"hint": "x" * 10_000}})),
]
RESOURCE: Place = ("predicate", "resources", 0)
STATEMENTS: list[tuple[Place, Any]] = [
    (("_type",), "https://in-toto.io/Statement/v0.1"),
    (("predicateType",), "https://model_signing/Digests/v0.1"),
    (("predicateType",), "https://slsa.dev/provenance/v1"),
    (("subject",), []),
    (("subject", 0, "digest", "sha256"), "0" * 64),
    (("predicate",), []),
    (("predicate", "serialization", "method"), "shards"),
    (("predicate", "serialization", "hash_type"), "blake3"),
    (("predicate", "resources"), []),
    *(((*RESOURCE, "name"), name) for name in ("../../etc/passwd", "/etc/passwd", "b/c.txt", ".", 7)),
    *(((*RESOURCE, "digest"), digest) for digest in ("0" * 63, None)),
    ((*RESOURCE, "algorithm"), "md5"),
]


def changed(document: dict[str, Any], place: Place, value: Any) -> bytes:
    found: Any = copy.deepcopy(document)
    part = found
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    return json.dumps(found).encode()


def test_an_envelope_of_another_form(signature: dict[str, Any]) -> None:
    for place, value in ENVELOPES:
        refused(changed(signature, place, value))


def test_a_statement_of_another_form_with_a_good_signature(signature: dict[str, Any], key: Pair) -> None:
    """The key's owner may be hostile, too."""
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    for place, value in STATEMENTS:
        data = changed(statement, place, value)
        signed = Envelope(IN_TOTO, data, b"").sign(read_private_key(key.private, bytes))
        signature["dsseEnvelope"]["payload"] = base64.b64encode(data).decode()
        signature["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(signed).decode()}]
        envelope = json.dumps(signature).encode()
        assert parse_envelope(envelope, "x").signed_by(KeyChecker.of(key.public).key)
        refused(envelope)


@given(data=st.data())
@settings(max_examples=100)
def test_no_changed_byte_of_a_signature_verifies_another_list(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever byte changes: refused, not by this key, or the very same list."""
    import signing_keys

    folder = tmp_path_factory.getbasetemp() / "one-key"
    if not folder.exists():
        folder.mkdir()
        pair = signing_keys.write_pair(folder)
        (folder / "x.sig").write_bytes(sign_files("it", FILES, read_private_key(pair.private, bytes)))
    raw = bytearray((folder / "x.sig").read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        envelope = parse_envelope(bytes(raw), "x.sig")
        signed = envelope.signed_by(KeyChecker.of(folder / "anna.pub").key)
        files = dict(read_statement(envelope).files)
    except BadSignatureError:
        return
    assert not signed or files == FILES
