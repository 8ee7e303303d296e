"""Keys: reading them from PEM files, naming them, and making a pair.

A key is named by the SHA-256 of its public half as a PEM text, which is what `sha256sum KEY.pub` prints and what
model-signing writes into its signatures as `hint`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.failures import opened

from ..errors import BadInputError, MissingExtraError
from ..record import Record, described

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

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
        raise BadInputError(
            f"{name} holds a private key, which should stay where it is", hint="give the public one, NAME.pub"
        )
    try:
        if b"BEGIN CERTIFICATE-----" in data:
            key: object = load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{name} holds no public key that can be read") from error
    return known_curve(key, name)


def known_curve(key: object, name: str) -> EllipticCurvePublicKey:
    """Return a public key if it is of a kind that signs models."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise BadInputError(
            f"{name} is not a key on one of the curves P-256, P-384 and P-521, which sign models",
            hint=_KEYGEN,
        )
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

    data = read_pem(path)
    secret: bytes | None = None
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
        public = b"BEGIN PUBLIC KEY-----" in data or b"BEGIN CERTIFICATE-----" in data
        wrong = (
            "is public: signing takes the private key" if public else "holds no private key that can be read"
        )
        raise BadInputError(f"{path.name} {wrong}", hint=_KEYGEN) from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise BadInputError(f"{path.name} is not a key on an elliptic curve, which sign models", hint=_KEYGEN)
    known_curve(key.public_key(), path.name)
    return key


def public_pem(key: EllipticCurvePublicKey) -> str:
    """Return a public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def key_id(key: EllipticCurvePublicKey) -> str:
    """Return the name of a key: the SHA-256 of its PEM text in hex."""
    return sha256(public_pem(key).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Pair(Record):
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
    for each in (path, public_path):
        if os.path.lexists(each):
            raise BadInputError(
                f"{each} is there already, and a key is never overwritten", hint="choose another name"
            )
    key = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    public = key.public_key()
    for each, data, mode in ((path, private, 0o600), (public_path, public_pem(public).encode(), 0o644)):
        with os.fdopen(os.open(each, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return Pair(key_id(public), path, public_path, bool(passphrase))
