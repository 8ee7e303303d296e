"""Who may have signed: a key, somebody with a certificate, or an identity that Sigstore vouches for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..dsse.envelope import BadSignatureError, Envelope
from ..dsse.keys import key_id, known_curve, parse_public_key, read_pem, read_public_key
from ..errors import BadInputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature it is.

    Attributes:
        name: of the key's file, of a trusted key, or an identity.
        key_id: of the key.
    """

    name: str
    key_id: str


class Checker(Protocol):
    """Tells whether a signature was made by somebody."""

    @property
    def name(self) -> str:
        """Return who that is, for a sentence."""

    def signer(self, envelope: Envelope, data: bytes) -> Signer | None:
        """Return who signed, None if it was not this one.

        Raises:
            BadSignatureError: it cannot be told, and why.
        """


@dataclass(frozen=True, slots=True)
class KeyChecker:
    """A public key."""

    name: str
    key: EllipticCurvePublicKey

    @classmethod
    def of(cls, path: Path) -> KeyChecker:
        """Read a key, or the key of a certificate, from a file."""
        return cls(path.name, read_public_key(path))

    @classmethod
    def parse(cls, name: str, pem: str) -> KeyChecker:
        """Read a key from a text."""
        return cls(name, parse_public_key(pem.encode(), name))

    def signer(self, envelope: Envelope, data: bytes) -> Signer | None:
        """Return this key if it made the signature."""
        return Signer(self.name, key_id(self.key)) if envelope.signed_by(self.key) else None


@dataclass(frozen=True, slots=True)
class CertificateChecker:
    """Certificates of those who may vouch for the signer's."""

    roots: tuple[Path, ...]

    @classmethod
    def of(cls, roots: Sequence[Path]) -> CertificateChecker:
        """Take the files of the certificates."""
        for root in roots:
            read_pem(root)
        return cls(tuple(roots))

    @property
    def name(self) -> str:
        """Return the names of the files."""
        return ", ".join(root.name for root in self.roots)

    def signer(self, envelope: Envelope, data: bytes) -> Signer | None:
        """Return whose certificate it is."""
        from .library import check_certificates

        if not envelope.certificates:
            raise BadSignatureError("the signature has no certificate")
        check_certificates(data, self.roots)
        return _holder(envelope.certificates[0])


@dataclass(frozen=True, slots=True)
class SigstoreChecker:
    """An identity, and the provider that knows it."""

    identity: str
    issuer: str

    @property
    def name(self) -> str:
        """Return the identity."""
        return self.identity

    def signer(self, envelope: Envelope, data: bytes) -> Signer | None:
        """Return the identity if it signed."""
        from .library import check_sigstore

        if not envelope.certificates or not envelope.logged:
            raise BadSignatureError("the signature was not made by way of Sigstore")
        check_sigstore(data, self.identity, self.issuer)
        return Signer(self.identity, _holder(envelope.certificates[0]).key_id)


def _holder(der: bytes) -> Signer:
    from cryptography.x509 import load_der_x509_certificate

    try:
        certificate = load_der_x509_certificate(der)
        name = certificate.subject.rfc4514_string()[:200]
        return Signer(name, key_id(known_curve(certificate.public_key(), "the certificate's key")))
    except (ValueError, BadInputError) as error:
        raise BadSignatureError("the signature's certificate cannot be read") from error
