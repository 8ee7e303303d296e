"""Signatures that come along: those that cannot be ones stay out, and none keeps a good one from its place."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import MissingExtraError, RegistryError
from ..records.signatures import SCHEME, is_good, manifest_of
from .package import Item, Values


def take_signature(session: Session, item: Item, values: Values) -> bool:
    """Record a signature over an item, unless it is on record or cannot be one; return whether it was recorded.

    What a trusted key is said to have signed is held against that key at once.  Of others it is only known that they
    are about these files; whether they count is asked when somebody trusts their key.
    """
    if not is_missing(session, item, values):
        return False
    known = _known(session, values)
    if known is None:
        session.add(tables.Signature(**values))
        return True
    for name, value in values.items():
        setattr(known, name, value)
    return True


def is_missing(session: Session, item: Item, values: Values) -> bool:
    """Tell whether a signature over an item may be one, and has no good one in its place on record."""
    if values["subject_digest"] != item.digest or values["subject_kind"] != item.kind:
        return False
    key = tables.TrustedKey
    public = session.scalar(select(key.public_key).where(key.key_id == values["key_id"]))
    if not _may_be(session, tables.Signature(**values), public):
        return False
    known = _known(session, values)
    return known is None or (public is not None and not _is(session, known, public))


def _known(session: Session, values: Values) -> tables.Signature | None:
    signature = tables.Signature
    return session.scalar(
        select(signature).where(
            signature.subject_digest == values["subject_digest"],
            signature.key_id == values["key_id"],
            signature.scheme == values["scheme"],
        )
    )


def _may_be(session: Session, found: tables.Signature, public: str | None) -> bool:
    from ..dsse.envelope import parse_envelope
    from ..dsse.statement import read_statement

    manifest = manifest_of(session, found.subject_digest)
    try:
        statement = read_statement(parse_envelope(found.envelope.encode(), "a signature that came along"))
    except RegistryError:
        return False
    if manifest is None or not statement.covers(manifest):
        return False
    return found.scheme != SCHEME or public is None or _is(session, found, public)


def _is(session: Session, found: tables.Signature, public: str) -> bool:
    """Tell whether a key has made a signature; where that cannot be checked, it is left to who can."""
    try:
        return is_good(session, found, public)
    except MissingExtraError:
        return True
