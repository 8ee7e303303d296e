"""Signatures that come along: those that cannot be ones stay out, and none keeps a good one from its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..access.roles import Thing, may_change
from ..errors import MissingExtraError, RegistryError
from ..records.signatures import SCHEME, is_good, manifest_of
from .package import Adapter, Fused, Item, Values

if TYPE_CHECKING:
    from ..workspace import Workspace


def missing_signatures(
    workspace: Workspace, session: Session, item: Item, row: Thing | None
) -> tuple[list[Values], str | None]:
    """Return the signatures over an item that are to be recorded, and why others are left out.

    What a trusted key is said to have signed is held against that key at once.  Of others it is only known that they
    are about these files; whether they count is asked when somebody trusts their key.  So their number is limited by
    who may add them.

    Args:
        workspace: the registry that receives, with the sender's name and role.
        session: of any transaction there.
        item: with signatures.
        row: of the same thing there; None where it is new.
    """
    missing = [values for values in item.signatures if _is_missing(session, item, values)]
    if not missing or row is None or may_change(workspace, session, "signature", row):
        return missing, None
    key = tables.TrustedKey
    query = select(key.key_id).where(key.key_id.in_([values["key_id"] for values in missing]))
    trusted = set(session.scalars(query.where(key.revoked_at.is_(None))))
    allowed = [values for values in missing if values["scheme"] == SCHEME and values["key_id"] in trusted]
    if len(allowed) == len(missing):
        return allowed, None
    return allowed, "without signatures of keys that are not trusted there: an approver may push them"


def take_signature(session: Session, values: Values) -> None:
    """Record a signature that is missing."""
    known = _known(session, values)
    if known is None:
        session.add(tables.Signature(**values))
        return
    for name, value in values.items():
        setattr(known, name, value)


def _is_missing(session: Session, item: Item, values: Values) -> bool:
    """Tell whether a signature over an item may be one, and has no good one in its place on record."""
    if values["subject_digest"] != item.digest or values["subject_kind"] != item.kind:
        return False
    if not isinstance(item, Adapter | Fused):  # nothing else that travels is signed
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
