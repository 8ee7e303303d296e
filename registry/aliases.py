"""Aliases: movable names on a task, each with its whole history.

An alias holds one adapter at a time.  Each move is a row, written in one transaction with the event that tells of it, so
that "which version was in production in March" has an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from . import events, tables
from .errors import BadInputError, UnknownReferenceError
from .ingredients import refuse_yanked
from .moments import parse_moment
from .names import Reference, parse_alias
from .resolve import resolve_adapter

if TYPE_CHECKING:
    from .workspace import Workspace

ALIAS_MOVED = "alias.moved"


def set_alias(workspace: Workspace, reference: str, alias: str, *, reason: str = "") -> dict[str, Any]:
    """Let an alias of an adapter's task hold that adapter.

    Returns:
        The move: `alias`, `task`, `from`, `to`, `reason`, `at`, `by`, and `moved`, which is false where it held it
        already.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: the adapter is yanked, or that is no name for an alias.
    """
    name = parse_alias(alias.removeprefix("#"))
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        refuse_yanked(session, adapter)
        found = session.scalar(
            select(tables.Alias).where(tables.Alias.task_id == adapter.task_id, tables.Alias.name == name)
        )
        if found is None:
            found = tables.Alias(task_id=adapter.task_id, name=name, adapter_id=None)
            session.add(found)
            session.flush()
        return _move(workspace, session, found, adapter, reason)


def remove_alias(workspace: Workspace, reference: str, *, reason: str = "") -> dict[str, Any]:
    """Take an alias, `task#alias`, away from the adapter that holds it; its history stays.

    Raises:
        UnknownReferenceError: there is no such alias.
    """
    with workspace.database.write() as session:
        return _move(workspace, session, _find(session, reference), None, reason)


def roll_back(workspace: Workspace, reference: str, *, reason: str = "") -> dict[str, Any]:
    """Give an alias back to the adapter that held it before; twice goes back two holders.

    Raises:
        UnknownReferenceError: there is no such alias.
        BadInputError: nobody held it before, or that one is yanked.
    """
    with workspace.database.write() as session:
        alias = _find(session, reference)
        holders = _holders(_moves(session, alias))
        if len(holders) < 2:
            raise BadInputError(
                f"no other adapter held {reference} before", hint=f"fusery alias history {reference}"
            )
        adapter = session.get_one(tables.Adapter, holders[-2])
        refuse_yanked(session, adapter)
        return _move(workspace, session, alias, adapter, reason or "rolled back")


def list_aliases(workspace: Workspace, task: str | None = None) -> list[dict[str, Any]]:
    """Return the aliases that hold an adapter, by task and name: `alias`, `task`, `adapter`, `since`, `by`, `reason`."""
    latest = (
        select(tables.AliasMove.id)
        .where(tables.AliasMove.alias_id == tables.Alias.id)
        .order_by(tables.AliasMove.id.desc())
        .limit(1)
        .correlate(tables.Alias)
        .scalar_subquery()
    )
    query = (
        select(tables.Alias, tables.AliasMove)
        .join(tables.Alias.task)
        .join(tables.AliasMove, tables.AliasMove.id == latest)
        .where(tables.Alias.adapter_id.is_not(None))
        .options(joinedload(tables.Alias.task), joinedload(tables.Alias.adapter))
        .order_by(tables.Task.name, tables.Alias.name)
    )
    if task is not None:
        query = query.where(tables.Task.name == task.casefold())
    with workspace.database.read() as session:
        return [
            {
                "alias": f"{alias.task.name}#{alias.name}",
                "task": alias.task.name,
                "adapter": alias.adapter.name if alias.adapter else None,
                "since": move.at.isoformat(),
                "by": move.by,
                "reason": move.reason,
            }
            for alias, move in session.execute(query)
        ]


def show_alias(workspace: Workspace, reference: str, *, at: str | None = None) -> dict[str, Any]:
    """Return what an alias holds, or held at a moment: `alias`, `adapter` (null for none), `at`, `since`, `by`, `reason`.

    Args:
        workspace: the registry's parts.
        reference: `task#alias`.
        at: a moment; a day means its end, in UTC.

    Raises:
        UnknownReferenceError: there is no such alias.
        BadInputError: that is no moment.
    """
    moment = parse_moment(at, end_of_day=True) if at is not None else None
    with workspace.database.read() as session:
        alias = _find(session, reference)
        moves = [move for move in _moves(session, alias) if moment is None or move.at <= moment]
        names = _names(session, moves)
        last = moves[-1] if moves else None
        return {
            "alias": _text(alias),
            "adapter": names.get(last.to_adapter_id) if last else None,
            "at": moment.isoformat() if moment else None,
            "since": last.at.isoformat() if last else None,
            "by": last.by if last else None,
            "reason": last.reason if last else None,
        }


def alias_history(workspace: Workspace, reference: str) -> list[dict[str, Any]]:
    """Return every move of an alias, oldest first: `alias`, `from`, `to`, `reason`, `at`, `by`.

    Raises:
        UnknownReferenceError: there is no such alias.
    """
    with workspace.database.read() as session:
        alias = _find(session, reference)
        moves = _moves(session, alias)
        names = _names(session, moves)
        return [_view(alias, move, names) for move in moves]


def _move(
    workspace: Workspace, session: Session, alias: tables.Alias, to: tables.Adapter | None, reason: str
) -> dict[str, Any]:
    before = session.get(tables.Adapter, alias.adapter_id) if alias.adapter_id is not None else None
    moved = (before.id if before else None) != (to.id if to else None)
    at = workspace.database.utcnow(session)
    move = tables.AliasMove(
        alias_id=alias.id,
        from_adapter_id=before.id if before else None,
        to_adapter_id=to.id if to else None,
        reason=reason,
        at=at,
        by=workspace.actor,
    )
    names = {adapter.id: adapter.name for adapter in (before, to) if adapter is not None}
    view = {**_view(alias, move, names), "moved": moved}
    if moved:
        alias.adapter_id = move.to_adapter_id
        session.add(move)
        session.flush()
        detail = {"from": _stated(before), "to": _stated(to), "reason": reason}
        events.record(
            session,
            action=ALIAS_MOVED,
            kind="alias",
            subject=_text(alias),
            detail=detail,
            actor=workspace.actor,
            at=at,
        )
    return view


def _stated(adapter: tables.Adapter | None) -> dict[str, str] | None:
    """Name an adapter beyond doubt, for the log."""
    return None if adapter is None else {"name": adapter.name, "digest": adapter.digest}


def _holders(moves: list[tables.AliasMove]) -> list[int]:
    """Return who held an alias, the last one last; a move back to the one before takes the later one away."""
    holders: list[int] = []
    for move in moves:
        if move.to_adapter_id is None:
            continue
        if len(holders) > 1 and holders[-2] == move.to_adapter_id:
            holders.pop()
        elif not holders or holders[-1] != move.to_adapter_id:
            holders.append(move.to_adapter_id)
    return holders


def _find(session: Session, text: str) -> tables.Alias:
    reference = Reference.parse(text)
    if reference.kind != "alias":
        raise BadInputError(
            f"{text[:60]!r} is not an alias", hint="write TASK#ALIAS, for example course_rec#prod"
        )
    query = (
        select(tables.Alias)
        .join(tables.Alias.task)
        .where(tables.Task.name == reference.task, tables.Alias.name == reference.value)
    )
    found = session.scalar(query)
    if found is None:
        raise UnknownReferenceError(f"there is no alias {text!r}", hint="fusery alias list")
    return found


def _moves(session: Session, alias: tables.Alias) -> list[tables.AliasMove]:
    query = select(tables.AliasMove).where(tables.AliasMove.alias_id == alias.id)
    return list(session.scalars(query.order_by(tables.AliasMove.id)))


def _names(session: Session, moves: list[tables.AliasMove]) -> dict[int | None, str]:
    ids = {number for move in moves for number in (move.from_adapter_id, move.to_adapter_id)}
    query = select(tables.Adapter.id, tables.Adapter.name).where(tables.Adapter.id.in_(ids - {None}))
    return {row.id: row.name for row in session.execute(query)}


def _view(alias: tables.Alias, move: tables.AliasMove, names: Any) -> dict[str, Any]:
    return {
        "alias": _text(alias),
        "task": alias.task.name,
        "from": names.get(move.from_adapter_id),
        "to": names.get(move.to_adapter_id),
        "reason": move.reason,
        "at": move.at.isoformat(),
        "by": move.by,
    }


def _text(alias: tables.Alias) -> str:
    return f"{alias.task.name}#{alias.name}"
