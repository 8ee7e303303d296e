"""Datasets on record: one row for each name, revision and digest."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables


def dataset_row(
    session: Session, name: str, *, revision: str = "", digest: str = "", examples: int | None = None
) -> tables.Dataset:
    """Return the row of a dataset, inserted if it is new; `examples` is what a new one is recorded with."""
    data = tables.Dataset
    query = select(data).where(data.name == name, data.revision == revision, data.digest == digest)
    found = session.scalar(query)
    if found is None:
        found = data(name=name, revision=revision, digest=digest, examples=examples)
        session.add(found)
        session.flush()
    return found
