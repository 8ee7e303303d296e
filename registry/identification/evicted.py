"""Fused models whose bytes are gone: what can still be said is which modules they touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select

from .. import tables
from .match import Match
from .owners import Owner

if TYPE_CHECKING:
    from ..workspace import Workspace

_LIKELY = 0.5
"""The most that is claimed of what was not compared."""


def evicted(workspace: Workspace, base: Match, missing: Sequence[Owner]) -> list[Match]:
    """Return the fused models that could be a base with these tensors changed: they touch them, and few others.

    Args:
        workspace: the registry's parts.
        base: what was found, as a base with changed tensors.
        missing: what is on record and could not be read.
    """
    tensors = base.comparison
    if tensors is None or not tensors.changed or tensors.missing or tensors.extra:
        return []
    changed = {_module(name) for name in tensors.changed}
    found = []
    for owner in missing:
        if owner.kind != "fused":
            continue
        touched = _touched(workspace, owner)
        # Rounding leaves some that are touched as they were.
        if changed <= touched and 2 * len(changed) >= len(touched):
            confidence = round(_LIKELY * len(changed) / len(touched), 4)
            found.append(Match(owner, "modules", confidence, base.place, tensors))
    return found


def _touched(workspace: Workspace, owner: Owner) -> set[str]:
    module = tables.ModuleFidelity
    with workspace.database.read() as session:
        return set(session.scalars(select(module.module).where(module.fused_id == owner.id)))


def _module(name: str) -> str:
    return name.rpartition(".")[0]
