"""What a report says of signatures: over what, by whom, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.batches import batches
from ..errors import MissingExtraError
from ..records.signatures import SCHEME, is_good
from ..records.views import moment

MOST_SIGNATURES = 60


def signatures_over(
    session: Session, digests: Mapping[str, tuple[str, str]], task: str
) -> list[dict[str, Any]]:
    """Return the signatures on record over things, the newest first.

    Args:
        session: of a read transaction.
        digests: kind and name of each thing, by its digest.
        task: whose aliases are of interest.

    Returns:
        For each `kind`, `name`, `digest`, `key_id`, `signer` (null for a key that is not trusted), `aliases` that the
        key counts for, `at`, `by`, and `state`: `good`, `wrong`, `revoked`, `unknown-key` or `not-checked`.
    """
    key, signature = tables.TrustedKey, tables.Signature
    found: list[tuple[tables.Signature, tables.TrustedKey | None]] = []
    for chosen in batches(digests):
        query = (
            select(signature, key)
            .outerjoin(key, and_(key.key_id == signature.key_id, signature.scheme == SCHEME))
            .where(signature.subject_digest.in_(chosen))
        )
        found += [(row, trusted) for row, trusted in session.execute(query)]
    found.sort(key=lambda each: -each[0].id)
    return [
        {
            "kind": digests[row.subject_digest][0],
            "name": digests[row.subject_digest][1],
            "digest": row.subject_digest,
            "key_id": row.key_id,
            "signer": trusted.name if trusted else None,
            "aliases": _patterns(trusted, task) if trusted else [],
            "at": moment(row.at),
            "by": row.by,
            "state": _state(session, row, trusted),
        }
        for row, trusted in found[:MOST_SIGNATURES]
    ]


def _patterns(key: tables.TrustedKey, task: str) -> list[str]:
    """Return for which aliases of a task a key counts."""
    from fnmatch import fnmatchcase

    patterns = [str(pattern) for pattern in key.aliases]
    return [pattern for pattern in patterns if fnmatchcase(task, pattern.partition("#")[0])]


def _state(session: Session, row: tables.Signature, key: tables.TrustedKey | None) -> str:
    if key is None:
        return "unknown-key"
    if key.revoked_at is not None:
        return "revoked"
    try:
        return "good" if is_good(session, row, key.public_key) else "wrong"
    except MissingExtraError:
        return "not-checked"
