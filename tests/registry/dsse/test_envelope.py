"""Signatures that are none: cut off, too large, hostile, or over something else than a list of files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import Pair

from fusery.registry.dsse.envelope import IN_TOTO, LARGEST, BadSignatureError, Envelope, parse_envelope
from fusery.registry.dsse.keys import read_private_key
from fusery.registry.dsse.statement import read_statement
from fusery.registry.signing.checking import KeyChecker
from fusery.registry.signing.library import sign_with_key
from fusery.registry.signing.verify import verify

FILES = {"a.txt": "0" * 64, "b/c.txt": "1" * 64}


@pytest.fixture
def signature(key: Pair) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sign_with_key("it", FILES, key.private, None))
    return document


def refused(data: bytes) -> str:
    with pytest.raises(BadSignatureError) as error:
        read_statement(parse_envelope(data, "x.sig"))
    assert "\n" not in error.value.message and len(error.value.message) < 400
    return error.value.message


def test_a_good_one(signature: dict[str, Any], key: Pair, stranger: Pair) -> None:
    envelope = parse_envelope(json.dumps(signature).encode(), "x.sig")
    assert dict(read_statement(envelope).files) == FILES
    assert envelope.signed_by(KeyChecker.of(key.public).key)
    assert not envelope.signed_by(KeyChecker.of(stranger.public).key)


def test_every_truncation_is_refused(signature: dict[str, Any]) -> None:
    data = json.dumps(signature).encode()
    for end in [*range(0, len(data), 37), len(data) - 1]:
        refused(data[:end])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 50_000,
        b'{"mediaType":' + b"9" * 5000 + b"}",
        b"\xff",
        b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": 1}',
        b'{"mediaType": NaN}',
        b'{"a":1,"a":2}',
        b'"' + b"x" * 200_000 + b'"',
    ],
)
def test_hostile_json_is_one_sentence(data: bytes) -> None:
    refused(data)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    huge = tmp_path / "it.sig"
    with huge.open("wb") as file:
        file.truncate(LARGEST * 1000)
    (problem,) = verify(tmp_path / "it").problems
    assert "larger than 64 MiB" in problem.message


def test_a_bomb_of_values_is_refused(signature: dict[str, Any]) -> None:
    signature["verificationMaterial"]["tlogEntries"] = [0] * 600_000
    assert "more than 500,000 values" in refused(json.dumps(signature).encode())


Change = Callable[[dict[str, Any]], None]


def _set(*path: Any, to: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.1"),
        _set("dsseEnvelope", "payload", to="%%%"),
        _set("dsseEnvelope", "payload", to=7),
        _set("dsseEnvelope", "signatures", to=[]),
        _set("dsseEnvelope", "signatures", to=[{"sig": ""}, {"sig": ""}]),
        _set("dsseEnvelope", "signatures", to={"sig": "x"}),
        _set("dsseEnvelope", "payloadType", to=["text"]),
        _set("dsseEnvelope", "payloadType", to="text/plain"),
        _set("verificationMaterial", to=None),
        _set(
            "verificationMaterial", to={"x509CertificateChain": {"certificates": [{"rawBytes": "AA=="}] * 17}}
        ),
        _set("verificationMaterial", to={"publicKey": {"hint": "x" * 10_000}}),
    ],
)
def test_an_envelope_of_another_form(signature: dict[str, Any], change: Change) -> None:
    change(signature)
    refused(json.dumps(signature).encode())


@pytest.mark.parametrize(
    "change",
    [
        _set("_type", to="https://in-toto.io/Statement/v0.1"),
        _set("predicateType", to="https://model_signing/Digests/v0.1"),
        _set("predicateType", to="https://slsa.dev/provenance/v1"),
        _set("subject", to=[]),
        _set("subject", 0, "digest", "sha256", to="0" * 64),
        _set("predicate", to=[]),
        _set("predicate", "serialization", "method", to="shards"),
        _set("predicate", "serialization", "hash_type", to="blake3"),
        _set("predicate", "resources", to=[]),
        _set("predicate", "resources", 0, "name", to="../../etc/passwd"),
        _set("predicate", "resources", 0, "name", to="/etc/passwd"),
        _set("predicate", "resources", 0, "name", to="b/c.txt"),
        _set("predicate", "resources", 0, "name", to="."),
        _set("predicate", "resources", 0, "name", to=7),
        _set("predicate", "resources", 0, "digest", to="0" * 63),
        _set("predicate", "resources", 0, "digest", to=None),
        _set("predicate", "resources", 0, "algorithm", to="md5"),
    ],
)
def test_a_statement_of_another_form_with_a_good_signature(
    signature: dict[str, Any], key: Pair, change: Change
) -> None:
    """The key's owner may be hostile, too."""
    payload = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    change(payload)
    data = json.dumps(payload).encode()
    signed = Envelope(IN_TOTO, data, b"").sign(read_private_key(key.private, bytes))
    signature["dsseEnvelope"]["payload"] = base64.b64encode(data).decode()
    signature["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(signed).decode()}]
    envelope = json.dumps(signature).encode()
    assert parse_envelope(envelope, "x").signed_by(KeyChecker.of(key.public).key)
    refused(envelope)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_changed_byte_of_a_signature_verifies_another_list(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever byte changes: refused, not by this key, or the very same list."""
    import signing_keys

    folder = tmp_path_factory.getbasetemp() / "one-key"
    if not folder.exists():
        folder.mkdir()
        pair = signing_keys.write_pair(folder)
        (folder / "x.sig").write_bytes(sign_with_key("it", FILES, pair.private, None))
    raw = bytearray((folder / "x.sig").read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        envelope = parse_envelope(bytes(raw), "x.sig")
        signed = envelope.signed_by(KeyChecker.of(folder / "anna.pub").key)
        files = dict(read_statement(envelope).files)
    except BadSignatureError:
        return
    assert not signed or files == FILES
