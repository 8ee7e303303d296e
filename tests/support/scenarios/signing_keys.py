"""Keys and certificates for tests, made anew each time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundle_cases import WRITTEN_HERE
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fusery.registry.provenance.sign import SigningKey

FORMS = {**{name: name for name in WRITTEN_HERE}, "vllm fused": "vllm", "hub adapter": "hub"}
"""Bundles of every target, and of those that hold either, both."""

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


@dataclass(frozen=True, slots=True)
class Pair:
    private: Path
    public: Path

    def signing(self) -> SigningKey:
        return SigningKey(self.private)


def write_pair(
    folder: Path,
    name: str = "anna",
    *,
    curve: ec.EllipticCurve | None = None,
    passphrase: bytes | None = None,
) -> Pair:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return write_key(folder, name, key, passphrase=passphrase)


def write_key(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, *, passphrase: bytes | None = None
) -> Pair:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    locked = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Pair(private, public)
