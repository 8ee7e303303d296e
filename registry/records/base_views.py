"""How a row becomes the record of a base model."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import object_session

from .. import tables
from .base import Base, Calibration, Source
from .current_calibrations import current_calibration
from .views import entries


def base_record(base: tables.BaseModel) -> Base:
    """Return the record of a base model."""
    return Base(**base_facts(base))


def base_facts(base: tables.BaseModel) -> dict[str, Any]:
    """Return the fields of a base model's record."""
    return {
        "name": base.names[0].name,
        "names": tuple(name.name for name in base.names),
        "digest": base.digest,
        "content": base.content,
        "architecture": base.architecture,
        "model_type": base.model_type,
        "parameters": base.parameters,
        "dtype": base.dtype,
        "quantization": base.quantization,
        "bytes": base.bytes,
        "reference": base.location,
        "sources": tuple(Source(source=row.source, revision=row.revision or None) for row in base.revisions),
        "created_at": base.created_at,
        "created_by": base.created_by,
        "calibrations": tuple(
            Calibration(
                digest=row.digest,
                prompts=row.prompts,
                tokens=row.tokens,
                adapter=row.adapter,
                created_at=row.created_at,
            )
            for row in _last_taken(base)
        ),
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
