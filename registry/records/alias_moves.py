"""The move of an alias: a row of its history and the event that tells of it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..database import events
from ..database.sealing import touch
from ..errors import AliasGuardedError
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
        told = told or {}
        if workspace.database.dialect == "postgresql":
            _ask_for(session, alias, made, emergency=bool(told.get("emergency")))
        else:
            _write(session, alias, made)
        detail = {"from": stated(before), "to": stated(to), "reason": reason, **told}
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


def _write(session: Session, alias: tables.Alias, made: tables.AliasMove) -> None:
    session.add(alias)
    session.flush()
    alias.adapter_id, made.alias_id = made.to_adapter_id, alias.id
    session.add(made)
    session.flush()


def _ask_for(session: Session, alias: tables.Alias, made: tables.AliasMove, *, emergency: bool) -> None:
    """Have the database move an alias: publishers may not write there, and its function knows the rules.

    Raises:
        AliasGuardedError: the move is against them.
    """
    query = select(
        func.move_alias(
            alias.task_id,
            alias.name,
            cast(made.to_adapter_id, Integer),
            made.reason,
            made.by,
            emergency,
            cast(made.at, tables.AliasMove.at.type),
        )
    )
    try:
        number = session.scalars(query).one()
    except IntegrityError as error:
        said = str(error.orig).partition("\n")[0]
        raise AliasGuardedError(
            f"the database refuses to move {text_of(alias)}: {said}",
            hint=f"fusery rules show {text_of(alias)}",
        ) from error
    row = session.execute(
        select(tables.Alias.id).where(tables.Alias.task_id == alias.task_id, tables.Alias.name == alias.name)
    ).scalar_one()
    if alias in session:
        session.refresh(alias)
    touch(session, "alias", [row])
    touch(session, "alias_move", [number])


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
