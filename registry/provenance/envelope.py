"""A statement under a signature: DSSE (https://github.com/secure-systems-lab/dsse), which any verifier of in-toto reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dsse.keys import key_id, read_private_key
from ..errors import MissingExtraError

if TYPE_CHECKING:
    from securesystemslib.signer._crypto_signer import CryptoSigner

PAYLOAD_TYPES = {"slsa": "application/vnd.in-toto+json", "cyclonedx": "application/vnd.cyclonedx+json"}


def signer_of(path: Path, passphrase: Callable[[], bytes]) -> CryptoSigner:
    """Return what signs with the private key of a file; the key is named as everywhere in fusery.

    Raises:
        BadInputError: it is not a private key on a curve that signs models, or the passphrase is wrong.
        MissingExtraError: securesystemslib or cryptography is not installed.
    """
    try:
        from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingExtraError("signing a statement", "sign") from error
    key = read_private_key(path, passphrase)
    public = key.public_key()
    return CryptoSigner(key, SSlibKey.from_crypto(public, keyid=key_id(public)))


def enveloped(signer: CryptoSigner, payload: bytes, form: str) -> dict[str, Any]:
    """Return the envelope of a document that was signed."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, PAYLOAD_TYPES[form], {})
    envelope.sign(signer)
    document: dict[str, Any] = envelope.to_dict()
    return document
