"""OpenSSF model-signing, the library: lists of files that are known already instead of folders that it would hash.

Its own way of hashing leaves `.git`, `.github`, `.gitignore` and `.gitattributes` out, so that what hides there would be
signed by nobody and verified all the same.  A list of every file leaves nothing out, and says so: `ignore_paths` is empty.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusery.storage.temporary import temporary_folder

from ..dsse.envelope import BadSignatureError, parse_envelope
from ..dsse.statement import read_statement
from ..errors import BadInputError, CheckFailedError, MissingExtraError


def _hashing(name: str, files: Mapping[str, str]) -> Any:
    """Return a configuration of the library's hashing that knows the result."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    how = manifest.SerializationType.from_args(
        {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    )
    items = [how.new_item(path, Digest("sha256", bytes.fromhex(digest))) for path, digest in files.items()]
    listed = manifest.Manifest(name, items, how)

    class Listed(hashing.Config):  # type: ignore[misc, unused-ignore]
        def hash(self, *_: Any, **__: Any) -> Any:
            return listed

    configuration: Any = Listed
    return configuration()


def _modules() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise MissingExtraError("signing with model-signing", "sign") from error
    # It warns of certificates on its own logger, which would end up on stderr; what it refuses is said here.
    logging.getLogger("model_signing").addHandler(logging.NullHandler())
    return signing, verifying


def sign_with_key(name: str, files: Mapping[str, str], key: Path, passphrase: bytes | None) -> bytes:
    """Sign a list of files with a private key; return the signature's bytes.

    Args:
        name: what the thing is called in the signature.
        files: path to SHA-256.
        key: the PEM file.
        passphrase: of the key, if it has one.

    Raises:
        MissingExtraError: the library is not installed.
    """
    signing, _ = _modules()
    return _signed(
        signing.Config().use_elliptic_key_signer(private_key=key, password=passphrase), name, files
    )


def sign_with_sigstore(name: str, files: Mapping[str, str], token: str | None) -> bytes:
    """Sign a list of files as somebody that an identity provider knows; needs a network, and maybe a browser.

    Args:
        name: what the thing is called in the signature.
        files: path to SHA-256.
        token: of the identity; that of the CI job, or one by way of a browser, if it is not given.

    Raises:
        CheckFailedError: Sigstore's services did not do it.
        MissingExtraError: the library is not installed.
    """
    signing, _ = _modules()
    try:
        config = signing.Config().use_sigstore_signer(identity_token=token, use_ambient_credentials=not token)
        return _signed(config, name, files)
    except Exception as error:  # of many libraries, for one network
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckFailedError(
            f"Sigstore did not sign: {why}", hint="--key KEY.pem signs without a network"
        ) from error


def _signed(config: Any, name: str, files: Mapping[str, str]) -> bytes:
    with temporary_folder("sign") as folder:
        place = folder / "signature"
        config.set_hashing_config(_hashing(name, files)).sign(folder / "model", place)
        data = place.read_bytes()
    statement = read_statement(parse_envelope(data, "the new signature"))
    if statement.ignored or dict(statement.files) != dict(files):
        raise BadSignatureError(
            "model-signing signed something else than it was given, and nothing was recorded"
        )
    return data


def with_certificates(signature: bytes, chain: Sequence[bytes]) -> bytes:
    """Return a signature that names its maker's certificate instead of a key; what is signed stays the same.

    Args:
        signature: made with the certificate's key.
        chain: certificates as DER, the maker's first.
    """
    from base64 import b64encode

    document = json.loads(signature)
    certificates = [{"rawBytes": b64encode(each).decode("ascii")} for each in chain]
    document["verificationMaterial"] = {
        "x509CertificateChain": {"certificates": certificates},
        "tlogEntries": [],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def check_certificates(signature: bytes, roots: Sequence[Path]) -> None:
    """Check a signature made with a certificate, and the certificate's way up to one that is trusted.

    Raises:
        BadSignatureError: it is not such a signature, or nobody vouches for its certificate.
        MissingExtraError: the library is not installed.
    """
    _, verifying = _modules()
    _check(lambda: verifying.Config().use_certificate_verifier(certificate_chain=roots), signature)


def check_sigstore(signature: bytes, identity: str, issuer: str) -> None:
    """Check a signature made by way of Sigstore; needs a network.

    Raises:
        BadSignatureError: it is none, or somebody else's.
        MissingExtraError: the library is not installed.
    """
    _, verifying = _modules()
    _check(lambda: verifying.Config().use_sigstore_verifier(identity=identity, oidc_issuer=issuer), signature)


def _check(configure: Any, signature: bytes) -> None:
    statement = read_statement(parse_envelope(signature, "the signature"))
    if statement.ignored:
        raise BadSignatureError("the signature leaves paths out, and cannot be checked this way")
    with temporary_folder("verify") as folder:
        place = folder / "signature"
        place.write_bytes(signature)
        try:
            known = _hashing(statement.name, statement.files)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                configure().set_hashing_config(known).verify(folder / "model", place)
        except Exception as error:  # of four libraries, each with its own
            why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise BadSignatureError(f"the signature does not hold: {why}") from error


def chain_of(certificate: Path, others: Sequence[Path]) -> list[bytes]:
    """Return certificates as DER, the maker's first.

    Raises:
        BadInputError: a file holds none.
    """
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    from ..dsse.keys import read_pem

    found: list[bytes] = []
    for path in (certificate, *others):
        try:
            loaded = load_pem_x509_certificates(read_pem(path))
        except ValueError as error:
            raise BadInputError(f"{path.name} holds no certificate that can be read") from error
        found += [each.public_bytes(Encoding.DER) for each in loaded]
    return found
