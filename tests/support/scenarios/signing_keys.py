"""Keys and certificates for tests, made anew each time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bundle_cases import WRITTEN_HERE
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fusery.registry.signing.sign import SigningKey

FORMS = {**{name: name for name in WRITTEN_HERE}, "vllm fused": "vllm", "hub adapter": "hub"}
"""Bundles of every target, and of those that hold either, both."""

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key's file and its public one's."""

    private: Path
    public: Path

    def signing(self) -> SigningKey:
        """Return what to sign with."""
        return SigningKey(self.private)


def write_pair(
    folder: Path,
    name: str = "anna",
    *,
    curve: ec.EllipticCurve | None = None,
    passphrase: bytes | None = None,
) -> Pair:
    """Write a private key `NAME.pem` and its public one `NAME.pub`; return both as a `Pair`."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return write_key(folder, name, key, passphrase=passphrase)


def write_key(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, *, passphrase: bytes | None = None
) -> Pair:
    """Write a key that is known."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    locked = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Pair(private, public)


class Authority:
    """A certificate authority with one between it and the signers."""

    def __init__(self, folder: Path, name: str = "root") -> None:
        """Make its certificates, as `NAME.crt` and `NAME-between.crt`."""
        self._folder = folder
        self._top = ec.generate_private_key(ec.SECP256R1())
        self._between = ec.generate_private_key(ec.SECP256R1())
        self.root = self._write(f"{name}.crt", name, self._top, name, self._top, authority=True)
        self.between = self._write(
            f"{name}-between.crt", f"{name} between", self._between, name, self._top, authority=True
        )
        self._name = name

    def signer(self, name: str, key: ec.EllipticCurvePrivateKey, *, signing: bool = True) -> Path:
        """Write the certificate of a signer's key."""
        return self._write(
            f"{name}.crt", name, key, f"{self._name} between", self._between, authority=False, signing=signing
        )

    def _write(
        self,
        file: str,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        by: str,
        by_key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool,
        signing: bool = True,
    ) -> Path:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=signing and not authority,
            content_commitment=False,
            key_encipherment=not signing,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=authority,
            crl_sign=authority,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(by))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(by_key, hashes.SHA256())
        )
        path = self._folder / file
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return path
