"""Aliases: movable names on a task, each with its whole history.

An alias holds one adapter at a time.  Each move is a row, written in one transaction with its log entry, so
that "which version was in production in March" has an answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, union
from sqlalchemy.orm import Session, joinedload

from .. import tables
from ..database.batches import batches
from ..database.events import history
from ..errors import BadInputError
from ..names import Reference, parse_alias
from ..records.alias import Alias, AliasMove, Moved
from ..records.alias_moves import ALIAS_MOVED, alias_row, move, move_record, text_of
from ..records.guards import refuse_guarded
from ..records.references import no_alias, resolve_adapter
from ..records.withdrawals import of_adapters, refuse_yanked, told_of

if TYPE_CHECKING:
    from ..workspace import Workspace

_ROLLBACK = "rollback"
"""What the log says of a move that is one."""


def set_alias(workspace: Workspace, reference: str, alias: str, *, reason: str = "") -> Moved:
    """Set an alias of an adapter's task to that adapter.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        alias: its name, which may stand behind that of the task, `TASK#NAME`.
        reason: for the log.

    Returns:
        The move, which is none if the alias held the adapter already.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: the adapter is yanked, or the alias is not a valid name, or one of another task.
        AliasGuardedError: only a promotion moves it.
    """
    task, _, bare = alias.rpartition("#")
    try:
        name = parse_alias(bare)
    except BadInputError as error:
        if "#" in reference and "@" in alias:
            hint = f"the adapter comes first: fusery alias set {alias} {reference.partition('#')[2]}"
            raise BadInputError(str(error), hint=hint) from error
        raise
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        if task and task != adapter.task.name:
            raise BadInputError(
                f"{adapter.name} is of the task {adapter.task.name}, and {alias[:100]} is an alias of another",
                hint=f"fusery alias set {adapter.name} {name}",
            )
        hint = f"fusery promote {reference} {name}"
        refuse_guarded(session, adapter.task.name, name, hint=hint)
        refuse_yanked(session, adapter)
        moved = move(workspace, session, alias_row(session, adapter, name), adapter, reason)
        return replace(moved, withdrawals=told_of(session, [adapter]))


def remove_alias(workspace: Workspace, reference: str, *, reason: str = "", emergency: bool = False) -> Moved:
    """Take an alias, `task#alias`, away from the adapter that holds it; its history stays.

    Args:
        workspace: the registry's parts.
        reference: `task#alias`.
        reason: for the log.
        emergency: also remove a guarded alias; this is logged.

    Raises:
        UnknownReferenceError: there is no such alias.
        BadInputError: an emergency without a reason.
        AliasGuardedError: it is guarded, and this is no emergency.
    """
    with workspace.database.write() as session:
        alias = _find(session, reference)
        told = _allow(session, alias, "remove", reason, emergency)
        return move(workspace, session, alias, None, reason, told)


def roll_back(workspace: Workspace, reference: str, *, reason: str = "", emergency: bool = False) -> Moved:
    """Set an alias to the adapter that held it before; a second rollback goes back one further.

    Args:
        workspace: the registry's parts.
        reference: `task#alias`.
        reason: for the log.
        emergency: also roll back a guarded alias, whatever its rules; this is logged.

    Raises:
        UnknownReferenceError: there is no such alias.
        BadInputError: no adapter held it before, or that one is yanked; or an emergency without a reason.
        AliasGuardedError: it is guarded, and this is no emergency.
    """
    with workspace.database.write() as session:
        alias = _find(session, reference)
        told = {**_allow(session, alias, "rollback", reason, emergency), _ROLLBACK: True}
        moves = _moves(session, alias)
        holders = holders_of(moves, _rollbacks(session, alias, len(moves)))
        if len(holders) < 2:
            raise BadInputError(
                f"no other adapter held {reference} before", hint=f"fusery alias history {reference}"
            )
        adapter = session.get_one(tables.Adapter, holders[-2])
        refuse_yanked(session, adapter)
        moved = move(workspace, session, alias, adapter, reason or "rolled back", told)
        return replace(moved, withdrawals=told_of(session, [adapter]))


def aliases_for(workspace: Workspace, reference: str) -> list[str]:
    """Return the aliases that an adapter can be given, `TASK#NAME` each: those of its task, and those with rules for it.

    Raises:
        UnknownReferenceError: there is no such adapter.
    """
    alias, rule = tables.Alias, tables.AliasRule
    with workspace.database.read() as session:
        query = select(tables.Adapter).options(joinedload(tables.Adapter.task))
        task = resolve_adapter(session, reference, query).task
        own = select(alias.name).where(alias.task_id == task.id)
        ruled = select(rule.alias).where(rule.task.in_(("", task.name)))
        return sorted(f"{task.name}#{name}" for name in session.scalars(union(own, ruled)))


def list_aliases(workspace: Workspace, task: str | None = None) -> list[Alias]:
    """Return the aliases that hold an adapter, by task and name."""
    latest = (
        select(tables.AliasMove.id)
        .where(tables.AliasMove.alias_id == tables.Alias.id)
        .order_by(tables.AliasMove.id.desc())
        .limit(1)
        .correlate(tables.Alias)
        .scalar_subquery()
    )
    query = (
        select(tables.Alias, tables.AliasMove, tables.Adapter.name)
        .join(tables.Alias.task)
        .join(tables.Adapter, tables.Adapter.id == tables.Alias.adapter_id)
        .join(tables.AliasMove, tables.AliasMove.id == latest)
        .options(joinedload(tables.Alias.task))
        .order_by(tables.Task.name, tables.Alias.name)
    )
    if task is not None:
        query = query.where(tables.Task.name == task.casefold())
    with workspace.database.read() as session:
        rows = session.execute(query).all()
        told = of_adapters(session, [alias.adapter_id or 0 for alias, _, _ in rows])
        return [
            Alias(
                alias=text_of(alias),
                task=alias.task.name,
                adapter=adapter,
                since=move.at,
                by=move.by,
                reason=move.reason,
                withdrawals=told.get(alias.adapter_id or 0, ()),
            )
            for alias, move, adapter in rows
        ]


def alias_history(
    workspace: Workspace, reference: str, *, limit: int | None = None, offset: int = 0
) -> list[AliasMove]:
    """Return the moves of an alias, oldest first.

    Args:
        workspace: the registry's parts.
        reference: the alias.
        limit: at most so many, the newest; None for all.
        offset: without so many of the newest.

    Raises:
        UnknownReferenceError: there is no such alias.
    """
    with workspace.database.read() as session:
        return alias_moves(session, _find(session, reference), limit, offset)


def alias_moves(session: Session, alias: tables.Alias, limit: int | None, offset: int = 0) -> list[AliasMove]:
    """Return what `alias_history` does, of its row."""
    moved = tables.AliasMove
    query = select(moved).where(moved.alias_id == alias.id).order_by(moved.id.desc())
    moves = session.scalars(query.limit(limit).offset(offset or None)).all()[::-1]
    names = _names(session, moves)
    return [move_record(alias, move, names) for move in moves]


def _allow(session: Session, alias: tables.Alias, verb: str, reason: str, emergency: bool) -> dict[str, Any]:
    """Return what the log is to say of a move without a promotion."""
    if emergency and not reason.strip():
        raise BadInputError(
            "an emergency needs a reason",
            hint=f"fusery alias {verb} {text_of(alias)} --emergency --reason TEXT",
        )
    if not emergency:
        hint = f"fusery promote REF {alias.name}, or at once: fusery alias {verb} {text_of(alias)} --emergency --reason TEXT"
        refuse_guarded(session, alias.task.name, alias.name, hint=hint)
        return {}
    return {"emergency": True}


def holders_of(moves: Sequence[tables.AliasMove], rollbacks: Sequence[bool]) -> list[int]:
    """Return the holders of an alias, the current one last; a rollback removes the holder that it left.

    Args:
        moves: of the alias, oldest first.
        rollbacks: which moves are rollbacks; any other move back to the previous holder is an ordinary move.
    """
    holders: list[int] = []
    for each, back in zip(moves, rollbacks, strict=True):
        if each.to_adapter_id is None:
            continue
        if back and holders[-2:-1] == [each.to_adapter_id]:
            holders.pop()
        elif holders[-1:] != [each.to_adapter_id]:
            holders.append(each.to_adapter_id)
    return holders


def _rollbacks(session: Session, alias: tables.Alias, count: int) -> list[bool]:
    """Return which of the moves of an alias, of which the log has one entry each, are rollbacks."""
    told = history(session, kind="alias", subject=text_of(alias), action=ALIAS_MOVED, limit=count)
    found = [bool(json.loads(event.detail).get(_ROLLBACK)) for event in told]
    return [False] * (count - len(found)) + found


def _find(session: Session, text: str) -> tables.Alias:
    reference = alias_reference(text)
    query = (
        select(tables.Alias)
        .join(tables.Alias.task)
        .where(tables.Task.name == reference.task, tables.Alias.name == reference.value)
    )
    found = session.scalar(query)
    if found is None:
        raise no_alias(session, text)
    return found


def alias_reference(text: str) -> Reference:
    """Return the reference `task#alias`.

    Raises:
        BadInputError: it is something else.
    """
    reference = Reference.parse(text)
    if reference.kind != "alias":
        raise BadInputError(
            f"{text[:60]!r} is not an alias", hint="write TASK#ALIAS, for example course_rec#prod"
        )
    return reference


def _moves(session: Session, alias: tables.Alias) -> list[tables.AliasMove]:
    query = select(tables.AliasMove).where(tables.AliasMove.alias_id == alias.id)
    return list(session.scalars(query.order_by(tables.AliasMove.id)))


def _names(session: Session, moves: Sequence[tables.AliasMove]) -> dict[int | None, str]:
    ids = {number for move in moves for number in (move.from_adapter_id, move.to_adapter_id)}
    query = select(tables.Adapter.id, tables.Adapter.name)
    return {
        row.id: row.name
        for chosen in batches(ids - {None})
        for row in session.execute(query.where(tables.Adapter.id.in_(chosen)))
    }
