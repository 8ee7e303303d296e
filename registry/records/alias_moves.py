"""The move of an alias: a row of its history and the event that tells of it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..database import events
from .alias import AliasMove, Moved

if TYPE_CHECKING:
    from ..workspace import Workspace

ALIAS_MOVED = "alias.moved"


def alias_row(session: Session, adapter: tables.Adapter, name: str) -> tables.Alias:
    """Return an alias of an adapter's task; where there is none, one that is recorded when it moves."""
    alias = tables.Alias
    found = session.scalar(select(alias).where(alias.task_id == adapter.task_id, alias.name == name))
    return found or alias(task_id=adapter.task_id, task=adapter.task, name=name, adapter_id=None)


def move(
    workspace: Workspace,
    session: Session,
    alias: tables.Alias,
    to: tables.Adapter | None,
    reason: str,
    told: Mapping[str, Any] | None = None,
) -> Moved:
    """Move an alias, in the caller's write transaction, with the event of it.

    Args:
        workspace: the registry's parts.
        session: of a write transaction.
        alias: what is moved.
        to: who holds it then; None for nobody.
        reason: for the log.
        told: more for the event.
    """
    if alias in session:
        session.refresh(alias, ["adapter_id"], with_for_update=True)
    before = session.get(tables.Adapter, alias.adapter_id) if alias.adapter_id is not None else None
    moved = (before.id if before else None) != (to.id if to else None)
    at = _time_of_move(workspace, session, alias)
    made = tables.AliasMove(
        alias_id=alias.id,
        from_adapter_id=before.id if before else None,
        to_adapter_id=to.id if to else None,
        reason=str(without_credentials(reason)),
        at=at,
        by=workspace.actor,
    )
    names: dict[int | None, str] = {
        adapter.id: adapter.name for adapter in (before, to) if adapter is not None
    }
    result = Moved(**_move_facts(alias, made, names), moved=moved)
    if moved:
        session.add(alias)
        session.flush()
        alias.adapter_id, made.alias_id = made.to_adapter_id, alias.id
        session.add(made)
        session.flush()
        detail = {"from": stated(before), "to": stated(to), "reason": reason, **(told or {})}
        events.record(
            session,
            action=ALIAS_MOVED,
            kind="alias",
            subject=text_of(alias),
            detail=detail,
            actor=workspace.actor,
            at=at,
        )
    return result


def _time_of_move(workspace: Workspace, session: Session, alias: tables.Alias) -> datetime:
    """Return the time, but not one before the last move: a clock that was set back must not turn the history round."""
    moved = tables.AliasMove
    last = session.scalar(
        select(moved.at).where(moved.alias_id == alias.id).order_by(moved.at.desc()).limit(1)
    )
    now = workspace.database.utcnow(session)
    return now if last is None else max(now, last)


def stated(adapter: tables.Adapter | None) -> dict[str, str] | None:
    """Name an adapter beyond doubt, for the log."""
    return None if adapter is None else {"name": adapter.name, "digest": adapter.digest}


def move_record(alias: tables.Alias, move: tables.AliasMove, names: Mapping[int | None, str]) -> AliasMove:
    """Return the record of a move; `names` are those of adapters by their rows."""
    return AliasMove(**_move_facts(alias, move, names))


def _move_facts(
    alias: tables.Alias, move: tables.AliasMove, names: Mapping[int | None, str]
) -> dict[str, Any]:
    return {
        "alias": text_of(alias),
        "task": alias.task.name,
        "from_": names.get(move.from_adapter_id),
        "to": names.get(move.to_adapter_id),
        "reason": move.reason,
        "at": move.at,
        "by": move.by,
    }


def text_of(alias: tables.Alias) -> str:
    """Return an alias with its task."""
    return f"{alias.task.name}#{alias.name}"
