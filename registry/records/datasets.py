"""Datasets on record: one row for each name, revision and digest."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import BadInputError

_BYTES = 2_000
"""Bytes of a dataset's name and revision: PostgreSQL indexes at most 2,704 bytes of a row, with the digest."""


def dataset_row(
    session: Session, name: str, *, revision: str = "", digest: str = "", examples: int | None = None
) -> tables.Dataset:
    """Return the row of a dataset, inserted if it is new; `examples` is what a new one is recorded with.

    Raises:
        BadInputError: name and revision are too long.
    """
    require_short(name, revision)
    data = tables.Dataset
    query = select(data).where(data.name == name, data.revision == revision, data.digest == digest)
    found = session.scalar(query)
    if found is None:
        found = data(name=name, revision=revision, digest=digest, examples=examples)
        session.add(found)
        session.flush()
    return found


def require_short(name: str, revision: str) -> None:
    """Refuse a dataset's name and revision that PostgreSQL cannot index together.

    Raises:
        BadInputError: they are too long.
    """
    length = len(f"{name}{revision}".encode())
    if length > _BYTES:
        raise BadInputError(
            f"name and revision of the dataset have {length:,} bytes", hint=f"give at most {_BYTES:,} bytes"
        )
