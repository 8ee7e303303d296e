"""From a reference to what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..records.references import resolve_any
from ..records.resolved import Resolved
from ..records.withdrawals import standing_yank

if TYPE_CHECKING:
    from ..workspace import Workspace


def resolve(workspace: Workspace, reference: str) -> Resolved:
    """Return which adapter, base model or fused model a reference means.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several things.
    """
    with workspace.database.read() as session:
        found = resolve_any(session, reference)
        if found.adapter is not None:
            yanked = standing_yank(session, found.adapter) is not None
            return Resolved("adapter", found.adapter.name, found.adapter.digest, yanked)
        if found.base is not None:
            return Resolved("base", found.base.name, found.base.digest)
        assert found.fused is not None
        return Resolved("fused", found.fused.key, found.fused.digest)
