"""What is live: the SQL that says which manifests and blobs something refers to, and which claims still hold."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from .. import tables
from ..database import Database
from ..database.owner import LeaseOwner
from ..database.sealing import touch
from ..tables import BlobRow, IntentRow, ManifestFileRow, ManifestRow, TensorRow

_BATCH = 500
_PARTS = (ManifestFileRow.__tablename__, TensorRow.__tablename__)
"""Tables whose rows belong to a manifest, and keep it no longer than something else does."""


def is_kept(manifest_id: ColumnElement[int]) -> ColumnElement[bool]:
    """Tell whether a base, adapter, fused artifact, bundle or anything else in the schema has this manifest."""
    referrers = [
        exists().where(column == manifest_id)
        for table in tables.metadata.tables.values()
        if table.name not in _PARTS
        for column in table.columns
        if any(key.column is ManifestRow.__table__.c.id for key in column.foreign_keys)
    ]
    return or_(*referrers)


def is_referenced() -> ColumnElement[bool]:
    """Tell of a row of `blob` whether a file of a manifest that is kept has its bytes."""
    files = ManifestFileRow.__table__
    return exists().where(files.c.blob == BlobRow.digest, is_kept(files.c.manifest_id))


def is_claimed(dead: Collection[str]) -> ColumnElement[bool]:
    """Tell of a row of `blob` whether a running command has an intent on it; those of `dead` owners do not count."""
    claim = exists().where(IntentRow.digest == BlobRow.digest, IntentRow.expires >= Database.clock())
    return claim.where(IntentRow.owner.not_in(sorted(dead))) if dead else claim


def dead_owners(session: Session) -> set[str]:
    """Return the owners of intents that are provably gone: their time need not be waited for."""
    owners = session.scalars(select(IntentRow.owner).distinct())
    return {text for text in owners if (owner := LeaseOwner.parse(text)) is not None and owner.is_dead()}


def somebody_works(session: Session, dead: Collection[str]) -> bool:
    """Tell whether any intent holds: then something may be on its way into the store."""
    query = select(IntentRow.owner).where(IntentRow.expires >= Database.clock()).distinct()
    return any(owner not in dead for owner in session.scalars(query))


def end_claims(database: Database) -> None:
    """Delete the intents that ran out, and those of owners that are gone.  Lease rows stay: they hold the fence."""
    with database.read() as session:
        dead = dead_owners(session)
        over = session.scalar(select(exists().where(IntentRow.expires < Database.clock())))
    if not dead and not over:
        return
    with database.write() as session:
        session.execute(delete(IntentRow).where(IntentRow.expires < Database.clock()))
        for owner in sorted(dead):
            session.execute(delete(IntentRow).where(IntentRow.owner == owner))


def drop_orphans(database: Database) -> None:
    """Delete the manifests that nothing has any more, with their files."""
    orphan = ~is_kept(ManifestRow.__table__.c.id)
    with database.read() as session:
        found = list(session.scalars(select(ManifestRow.id).where(orphan)))
    for start in range(0, len(found), _BATCH):
        batch = found[start : start + _BATCH]
        with database.write() as session:
            # Somebody may have come to need one meanwhile.
            numbers = list(session.scalars(select(ManifestRow.id).where(ManifestRow.id.in_(batch), orphan)))
            touch(session, "manifest", numbers)
            for part in (ManifestFileRow, TensorRow):
                session.execute(delete(part).where(part.manifest_id.in_(numbers)))
            session.execute(delete(ManifestRow).where(ManifestRow.id.in_(numbers)))


def count_live(session: Session) -> tuple[int, int]:
    """Return how many blobs are referred to, and their bytes."""
    query = select(func.count(), func.coalesce(func.sum(BlobRow.size), 0)).where(is_referenced())
    number, total = session.execute(query).one()
    return int(number), int(total)
