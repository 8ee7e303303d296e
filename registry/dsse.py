"""Signed statements as in-toto and Sigstore have them: DSSE envelopes, the files that a statement signs, and the keys.

A key is named by the SHA-256 of its public half as a PEM text, which is what `sha256sum KEY.pub` prints and what
model-signing writes into its signatures as `hint`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FormatError, StorageError
from fusery.storage.failures import opened
from fusery.storage.jsonfile import parse_json
from fusery.storage.manifest import Manifest, safe_relative_path

from .errors import BadInputError, MissingExtraError, RegistryError
from .record import Record, described

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""The curves that model-signing knows: NIST P-256, P-384 and P-521."""
_MOST = 64 << 10
"""Bytes that a key or a chain of certificates may have."""
_KEYGEN = "fusery admin trust keygen NAME"


def need_cryptography() -> None:
    """Say which extra is missing, where it is."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("signing and checking signatures", "sign") from error


def read_pem(path: Path) -> bytes:
    """Return the bytes of a PEM file."""
    with opened(path) as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST or b"-----BEGIN " not in data:
        raise BadInputError(f"{path.name} is not a key or certificate in PEM form", hint=_KEYGEN)
    return data


def parse_public_key(data: bytes, name: str) -> EllipticCurvePublicKey:
    """Return the public key in a PEM text: of a public key or of a certificate; `name` is for errors."""
    need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    if b"PRIVATE KEY-----" in data:
        raise BadInputError(f"{name} is a private key", hint="give the public one, NAME.pub")
    try:
        if b"BEGIN CERTIFICATE-----" in data:
            key: object = load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{name} holds no public key that can be read") from error
    return require_signing_curve(key, name)


def require_signing_curve(key: object, name: str) -> EllipticCurvePublicKey:
    """Return a public key if it is of a kind that signs models."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise BadInputError(f"{name} is not a key on the curve P-256, P-384 or P-521", hint=_KEYGEN)
    return key


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """Return the public key of a file; as `parse_public_key`."""
    return parse_public_key(read_pem(path), path.name)


def read_private_key(path: Path, passphrase: Callable[[], bytes]) -> EllipticCurvePrivateKey:
    """Return the private key of a file; `passphrase` is called only if the key needs one."""
    need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, secret = read_pem(path), None
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:
            secret = passphrase()
            key = load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without its cause: what the library says of a key is nothing for a log.
        if secret is not None:
            raise BadInputError(f"the passphrase of {path.name} is wrong") from None
        raise BadInputError(f"{path.name} holds no private key that can be read", hint=_KEYGEN) from None
    require_signing_curve(key.public_key(), path.name)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def public_pem(key: EllipticCurvePublicKey) -> str:
    """Return a public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def key_id(key: EllipticCurvePublicKey) -> str:
    """Return the name of a key: the SHA-256 of its PEM text in hex."""
    return sha256(public_pem(key).encode("ascii")).hexdigest()


class Pair(Record, kw_only=False):
    """A new private key and its public key."""

    key_id: str = described("SHA-256 of the public key")
    private_key: Path = described("the file of the private key")
    public_key: Path = described("the file of the public key")
    locked: bool = described("the private key needs a passphrase")


def make_pair(path: Path, passphrase: bytes | None) -> Pair:
    """Write a new pair of keys on P-256: `NAME.pem`, for its owner's eyes only, and `NAME.pub`."""
    need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public_path = path.with_name(f"{path.stem if path.suffix == '.pem' else path.name}.pub")
    for key_path in (path, public_path):
        if os.path.lexists(key_path):
            raise BadInputError(f"{key_path} exists already", hint="choose another name")
    key = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    public = key.public_key()
    for key_path, data, mode in ((path, private, 0o600), (public_path, public_pem(public).encode(), 0o644)):
        with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return Pair(key_id(public), path, public_path, bool(passphrase))


MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
LARGEST = 64 << 20
"""Bytes that a signature may have: a list of some hundred thousand files."""


class BadSignatureError(RegistryError):
    """A signature cannot be read, or is invalid."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signature that is not verified yet."""

    payload_type: str
    payload: bytes  # which is signed, together with the type
    signature: bytes
    hint: str = ""  # the id of the key; may be empty

    def signed_bytes(self) -> bytes:
        """Return what the signature is over: DSSE's pre-authentication encoding."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(self.payload), self.payload)

    def signed_by(self, key: EllipticCurvePublicKey) -> bool:
        """Return whether a key made the signature."""
        from cryptography.exceptions import InvalidSignature

        try:
            key.verify(self.signature, self.signed_bytes(), _algorithm(key))
        except InvalidSignature:
            return False
        return True

    def sign(self, key: EllipticCurvePrivateKey) -> bytes:
        """Return a key's signature over the payload."""
        return key.sign(self.signed_bytes(), _algorithm(key))


def _algorithm(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size])


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a signature's file, one more than a signature may have at most."""
    with opened(path) as file:
        return file.read(LARGEST + 1)


def parse_envelope(data: bytes, name: str) -> Envelope:
    """Read a Sigstore bundle as JSON; `name` is for errors."""
    if len(data) > LARGEST:
        raise BadSignatureError(f"{name} is larger than {LARGEST >> 20} MiB, which no signature is")
    try:
        document = parse_json(data, name)
        if document["mediaType"] != MEDIA_TYPE:
            raise ValueError("not a bundle of a known kind")
        hint = document["verificationMaterial"].get("publicKey", {}).get("hint")
        return replace(parse_dsse(document["dsseEnvelope"]), hint=_text(hint or ""))
    except (FormatError, TypeError, KeyError, ValueError, AttributeError) as error:
        why = error.message if isinstance(error, StorageError) else "not a Sigstore bundle in version 0.3"
        raise BadSignatureError(f"{name} is not a signature that can be read: {why}") from error


def parse_dsse(document: Mapping[str, Any]) -> Envelope:
    """Return a bare DSSE envelope; an invalid one raises TypeError, KeyError or ValueError."""
    (entry,) = document["signatures"]
    return Envelope(
        payload_type=_text(document["payloadType"]),
        payload=_bytes(document["payload"]),
        signature=_bytes(entry["sig"]),
    )


def signed_document(
    payload_type: str, payload: bytes, key: EllipticCurvePrivateKey | None = None, name: str = ""
) -> dict[str, Any]:
    """Return a bare DSSE envelope, signed with a key of this name if there is one."""
    signatures = []
    if key is not None:
        signature = Envelope(payload_type, payload, b"").sign(key)
        signatures = [{"keyid": name, "sig": base64.b64encode(signature).decode("ascii")}]
    text = base64.b64encode(payload).decode("ascii")
    return {"payloadType": payload_type, "payload": text, "signatures": signatures}


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise TypeError("no text")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("no text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
LONE = "."
"""How model-signing calls the file where a single one was signed: whatever its name is."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Statement:
    """The signed list of files: SHA-256 by path.  The name proves nothing; ignored paths count as added files."""

    name: str
    files: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    @property
    def lone(self) -> bool:
        """A single file was signed, whatever its name is."""
        return set(self.files) == {LONE}

    def covers(self, manifest: Manifest) -> bool:
        """Return whether it lists exactly a manifest's files."""
        listed = {entry.path: str(entry.sha256) for entry in manifest}
        if self.lone and len(listed) == 1:
            return set(listed.values()) == set(self.files.values())
        return listed == dict(self.files)


def sign_files(name: str, files: Mapping[str, str], key: EllipticCurvePrivateKey) -> bytes:
    """Return a signature over a list of files, the SHA-256 by path, as OpenSSF model-signing makes it."""
    paths = sorted(files, key=PurePosixPath)
    digest = sha256(b"".join(bytes.fromhex(files[path]) for path in paths)).hexdigest()
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"hash_type": "sha256", "method": "files", "allow_symlinks": False},
            "resources": [{"name": path, "digest": files[path], "algorithm": "sha256"} for path in paths],
        },
    }
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": signed_document(IN_TOTO, json.dumps(statement).encode(), key),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def read_statement(envelope: Envelope) -> Statement:
    """Return the list of files that a signature of model-signing states, by their SHA-256."""
    try:
        document = parse_json(envelope.payload, "the signed statement")
        (subject,), predicate = document["subject"], document["predicate"]
        method = predicate["serialization"]
        kinds = envelope.payload_type, document["_type"], document["predicateType"]
        if (*kinds, method["method"], method["hash_type"]) != (
            IN_TOTO,
            STATEMENT,
            PREDICATE,
            "files",
            "sha256",
        ):
            raise ValueError("it is not over files by their SHA-256, as model-signing 1.0 makes it")
        running, files = sha256(), dict[str, str]()
        for resource in predicate["resources"]:
            path, digest = resource["name"], resource["digest"]
            if resource["algorithm"] != "sha256" or not _HEX.fullmatch(digest):
                raise ValueError("a digest is no SHA-256")
            if path != LONE:
                safe_relative_path(path)
            if path in files:
                raise FormatError("it names a path twice")
            files[path] = digest
            running.update(bytes.fromhex(digest))
        if not files or (LONE in files and len(files) > 1):
            raise ValueError("it names no files")
        if subject["digest"]["sha256"] != running.hexdigest():
            raise ValueError("its digest is not that of its list")
        ignored = tuple(str(path)[:300] for path in method.get("ignore_paths", []))
        return Statement(str(subject.get("name", ""))[:300], files, ignored)
    except KeyError as error:
        raise BadSignatureError(f"the signature lacks {str(error)[:60]} in its statement") from error
    except (StorageError, TypeError, AttributeError, ValueError) as error:
        why = error.message if isinstance(error, StorageError) else str(error)
        raise BadSignatureError(f"invalid statement of the signed files: {why[:200]}") from error
