"""How a row becomes the record of a base model."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import object_session

from .. import tables
from ..record import row_values
from .base import Base, Calibration, Source
from .current_calibrations import current_calibration
from .views import entries


def base_record(base: tables.BaseModel) -> Base:
    """Return the record of a base model."""
    return Base(**base_facts(base))


def base_facts(base: tables.BaseModel) -> dict[str, Any]:
    """Return the fields of a base model's record."""
    return {
        **row_values(Base, base),
        "name": base.names[0].name,
        "names": tuple(name.name for name in base.names),
        "reference": base.location,
        "sources": tuple(Source(source=row.source, revision=row.revision or None) for row in base.revisions),
        "calibrations": tuple(map(Calibration.from_row, _last_taken(base))),
        "files": entries(base.manifest),
    }


def _last_taken(base: tables.BaseModel) -> list[tables.Calibration]:
    """Return the calibrations of a base, oldest first; the last of those for all adapters is the one that a fuse takes."""
    session, rows = object_session(base), list(base.calibrations)
    taken = current_calibration(session, base) if session is not None else None
    if taken is not None:
        newest = [row for row in rows if row.adapter is None][-1]
        if newest is not taken:
            rows.remove(taken)
            rows.insert(rows.index(newest) + 1, taken)
    return rows
