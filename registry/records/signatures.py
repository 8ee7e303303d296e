"""What is on record of signatures: which there are, and which were made by a key that counts."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from fusery.storage.errors import StorageError
from fusery.storage.manifest import Manifest

from .. import tables
from ..errors import RegistryError
from .signature import RecordedSignature

SCHEME = "model-signing"
"""What the table calls a Sigstore bundle over a list of files, as OpenSSF model-signing makes it."""
SIGSTORE = "sigstore"
"""What the table calls a signature made by way of Sigstore."""


def trusted_signers(session: Session, kind: str, digest: str, alias: str) -> list[str]:
    """Return whose signatures over a thing count for an alias.

    A signature counts when its key is trusted, not revoked and for this alias, when it verifies with that key, and
    when what it states is the thing's list of files.

    Args:
        session: of any transaction.
        kind: `adapter`, `fused` or `bundle`.
        digest: of the thing.
        alias: `TASK#ALIAS`.

    Returns:
        The names of the keys, sorted.

    Raises:
        MissingExtraError: there are signatures to check, and cryptography is not installed.
    """
    key, signature = tables.TrustedKey, tables.Signature
    rows = session.execute(
        select(key, signature)
        .join(signature, signature.key_id == key.key_id)
        .where(
            signature.subject_kind == kind,
            signature.subject_digest == digest,
            signature.scheme == SCHEME,
            key.revoked_at.is_(None),
        )
        .order_by(key.name)
    )
    return [
        trusted.name
        for trusted, found in rows
        if _matches(trusted.aliases, alias) and is_good(session, found, trusted.public_key)
    ]


def _matches(patterns: Sequence[str], alias: str) -> bool:
    return any(fnmatchcase(alias.casefold(), str(pattern).casefold()) for pattern in patterns)


def signed_name(key: str, verdict: str) -> str:
    """Return how the name begins that a signature gives to a fused artifact: with what the files do not say."""
    return f"fused {key} {verdict}: "


def is_good(
    session: Session, signature: tables.Signature, public_key: str, *, name: str | None = None
) -> bool:
    """Return whether a recorded signature was made by a key, over the list of files that its digest stands for.

    Args:
        session: of any transaction.
        signature: the signature.
        public_key: as PEM.
        name: what the signer must have called it; the name is signed, too, and has to begin so.
    """
    from ..dsse.envelope import parse_envelope
    from ..dsse.keys import key_id, parse_public_key
    from ..dsse.statement import read_statement

    manifest = manifest_of(session, signature.subject_digest)
    try:
        key = parse_public_key(public_key.encode(), "the trusted key")
        envelope = parse_envelope(signature.envelope.encode(), "the signature")
        return (
            manifest is not None
            and key_id(key) == signature.key_id
            and envelope.signed_by(key)
            and (statement := read_statement(envelope)).covers(manifest)
            and (name is None or statement.name.startswith(name))
        )
    except RegistryError as error:
        if error.code == "missing_extra":
            raise
        return False


def manifest_of(session: Session, digest: str) -> Manifest | None:
    """Return the list of files that a digest stands for, or None if there is none that it is the digest of."""
    row = session.scalar(select(tables.Manifest).where(tables.Manifest.digest == digest))
    if row is None:
        return None
    try:
        manifest = row.value
    except StorageError:
        return None
    return manifest if manifest.digest == digest else None


def signatures_of(session: Session, digest: str) -> list[RecordedSignature]:
    """Return the recorded signatures over a digest, oldest first, with the name of each key where it is trusted."""
    signature = tables.Signature
    rows = session.scalars(
        select(signature)
        .options(joinedload(signature.key))
        .where(signature.subject_digest == digest)
        .order_by(signature.id)
    )
    return [recorded_signature(row) for row in rows]


def recorded_signature(row: tables.Signature) -> RecordedSignature:
    """Return the record of a signature; only a scheme with keys of its own has the name of a trusted key."""
    key = row.key if row.scheme == SCHEME else None
    return RecordedSignature.from_row(
        row,
        kind=row.subject_kind,
        signer=key.name if key else None,
        revoked=bool(key and key.revoked_at),
    )
