"""A signature as it lies in a file: a Sigstore bundle with a DSSE envelope, read without trusting a byte of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FormatError, StorageError
from fusery.storage.jsonfile import parse_json
from fusery.storage.opening import opened

from ..errors import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
LARGEST = 64 << 20
"""Bytes that a signature may have: a list of some hundred thousand files."""
_MOST_CERTIFICATES = 16


class BadSignatureError(RegistryError):
    """A signature cannot be read, or is not what it should be."""

    code = "bad_signature"
    exit_code = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a signature says, before anybody has checked it.

    Attributes:
        payload_type: what the payload is.
        payload: the bytes that are signed, together with the type.
        signature: the signature itself.
        hint: the name of the key, or nothing.
        certificates: the signer's and those that vouch for it, as DER; none where a key signed.
        logged: a transparency log has an entry of it, as Sigstore makes them.
    """

    payload_type: str
    payload: bytes
    signature: bytes
    hint: str = ""
    certificates: tuple[bytes, ...] = ()
    logged: bool = False

    def signed_bytes(self) -> bytes:
        """Return what the signature is over: DSSE's pre-authentication encoding."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(self.payload), self.payload)

    def signed_by(self, key: EllipticCurvePublicKey) -> bool:
        """Return whether a key made the signature."""
        from cryptography.exceptions import InvalidSignature

        try:
            key.verify(self.signature, self.signed_bytes(), _algorithm(key.curve.key_size))
        except InvalidSignature:
            return False
        return True

    def sign(self, key: EllipticCurvePrivateKey) -> bytes:
        """Return a key's signature over the payload."""
        return key.sign(self.signed_bytes(), _algorithm(key.curve.key_size))


def _algorithm(bits: int) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[bits])


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a signature's file, one more than a signature may have at most.

    Raises:
        MissingFileError: it is not there.
    """
    with opened(path) as file:
        return file.read(LARGEST + 1)


def parse_envelope(data: bytes, name: str) -> Envelope:
    """Read a signature.

    Args:
        data: a Sigstore bundle as JSON.
        name: what it is called in an error.

    Raises:
        BadSignatureError: it is not a signature.
    """
    if len(data) > LARGEST:
        raise BadSignatureError(f"{name} is larger than {LARGEST >> 20} MiB, which no signature is")
    try:
        document = parse_json(data, name)
        return _envelope(document)
    except (FormatError, TypeError, KeyError, ValueError, AttributeError) as error:
        why = (
            error.message if isinstance(error, StorageError) else "it is not a Sigstore bundle in version 0.3"
        )
        raise BadSignatureError(f"{name} is not a signature that can be read: {why}") from error


def parse_dsse(document: Mapping[str, Any]) -> Envelope:
    """Return a bare DSSE envelope.

    Raises:
        TypeError, KeyError, ValueError: it is none.
    """
    (entry,) = document["signatures"]
    return Envelope(
        payload_type=_text(document["payloadType"]),
        payload=_bytes(document["payload"]),
        signature=_bytes(entry["sig"]),
    )


def _envelope(document: Any) -> Envelope:
    if document["mediaType"] != MEDIA_TYPE:
        raise ValueError("not a bundle of a known kind")
    bare = parse_dsse(document["dsseEnvelope"])
    material = document["verificationMaterial"]
    chain = material.get("x509CertificateChain", {}).get("certificates", [])
    if "certificate" in material:
        chain = [material["certificate"]]
    if len(chain) > _MOST_CERTIFICATES:
        raise ValueError("too many certificates")
    return Envelope(
        payload_type=bare.payload_type,
        payload=bare.payload,
        signature=bare.signature,
        hint=_text(material.get("publicKey", {}).get("hint") or ""),
        certificates=tuple(_bytes(entry["rawBytes"]) for entry in chain),
        logged=bool(material.get("tlogEntries")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise TypeError("no text")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("no text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
