"""All fused models of a registry, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import tables
from ..errors import BadInputError
from ..records.fused import ListedFused
from ..records.fused_rows import load_fused
from ..records.withdrawals import of_fused
from .views import line_facts

if TYPE_CHECKING:
    from ..workspace import Workspace


def list_fused(workspace: Workspace, *, limit: int | None = None, offset: int = 0) -> list[ListedFused]:
    """Return fused models, the newest first; a page takes the same statements however many there are.

    Args:
        workspace: the registry's parts.
        limit: at most so many.
        offset: how many of the newest are passed over.

    Raises:
        BadInputError: one of these is less than nothing.
    """
    if offset < 0 or (limit is not None and limit < 0):
        raise BadInputError("a limit and an offset are 0 or more")
    with workspace.database.read() as session:
        query = load_fused().order_by(tables.Fused.id.desc()).limit(limit).offset(offset)
        rows = list(session.scalars(query))
        told = of_fused(session, [row.id for row in rows])
        return [
            ListedFused(**line_facts(row, None), withdrawals=told.get(row.id, ()), base=row.base.name)
            for row in rows
        ]
