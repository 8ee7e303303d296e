"""Calibrations on record: the newest of a base, and the file of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from .. import tables
from ..errors import UnknownReferenceError
from .bases import blob_generations

if TYPE_CHECKING:
    from ..workspace import Workspace


def latest_calibration(session: Session, base: tables.BaseModel) -> tables.Calibration | None:
    """Return the newest calibration of a base, or None if it has none."""
    query = select(tables.Calibration).where(tables.Calibration.base_id == base.id)
    return session.scalars(query.order_by(tables.Calibration.id.desc()).limit(1)).first()


def fetch_calibration(workspace: Workspace, digest: str, target: Path) -> Path:
    """Write the file of a calibration to `target`, verified, and return that.

    Args:
        workspace: the registry's parts.
        digest: of the calibration, all of it.
        target: a file that is not there yet.

    Raises:
        UnknownReferenceError: there is no such calibration.
        BlobMissingError: the store lacks it.
        BlobCorruptError: it is damaged in the store.
    """
    with workspace.database.read() as session:
        query = select(tables.Calibration).where(tables.Calibration.digest == digest)
        row = session.scalars(query.order_by(tables.Calibration.id)).first()
        if row is None:
            raise UnknownReferenceError(
                f"there is no calibration {digest[:12]}", hint="fusery base show BASE lists them"
            )
        blob = Digest(row.manifest.files[0].sha256)
    generation = blob_generations(workspace, [blob])[blob]
    workspace.store.fetch(blob, target, generation=generation)
    return target
