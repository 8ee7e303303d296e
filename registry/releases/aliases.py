"""Aliases: movable names on a task; each move is a row, written in one transaction with its log entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, union
from sqlalchemy.orm import Session, joinedload

from .. import tables
from ..database.events import history
from ..errors import BadInputError
from ..names import Reference, parse_alias
from ..parsing import parse_moment
from ..records.alias_moves import ALIAS_MOVED, alias_row, move, move_record, refuse_guarded, text_of
from ..records.references import adapter_names, no_alias, resolve_adapter
from ..records.release import Alias, AliasHolder, AliasMove, Moved
from ..records.withdrawals import is_yanked, of_adapter, of_adapters, refuse_yanked, standing_yank
from ..workspace.workspace import Workspace

_ROLLBACK = "rollback"  # the key of a log entry that marks a rollback
_REASONS = 3  # the most earlier holders in the message of a refused rollback


def set_alias(workspace: Workspace, alias: str, reference: str, *, reason: str = "") -> Moved:
    """Set an alias of an adapter's task, `NAME` or `TASK#NAME`, to that adapter."""
    task, _, bare = alias.rpartition("#")
    name = parse_alias(bare)
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
        return replace(moved, withdrawals=of_adapter(session, adapter))


def remove_alias(workspace: Workspace, reference: str, *, reason: str = "", emergency: bool = False) -> Moved:
    """Take an alias, `task#alias`, from its adapter; its history stays."""
    with workspace.database.write() as session:
        alias = _find(session, reference)
        allow = _allow(session, alias, "remove", reason, emergency)
        return move(workspace, session, alias, None, reason, allow)


def roll_back(workspace: Workspace, reference: str, *, reason: str = "", emergency: bool = False) -> Moved:
    """Set an alias to the adapter that held it before; a second rollback goes back one further."""
    with workspace.database.write() as session:
        alias = _find(session, reference)
        extra_detail = {**_allow(session, alias, "rollback", reason, emergency), _ROLLBACK: True}
        adapter, reasons = _earlier_holder(session, alias)
        if adapter is None:
            why = "; ".join(reasons.values()) or "no other adapter held it before"
            usable = next((name for name, text in reasons.items() if "yanked" not in text), "REF")
            hint = f"fusery promote {usable} {alias.name}, or fusery alias remove {text_of(alias)}"
            raise BadInputError(f"cannot roll back {text_of(alias)}: {why}", hint=hint)
        moved = move(workspace, session, alias, adapter, reason or "rolled back", extra_detail)
        return replace(moved, withdrawals=of_adapter(session, adapter))


def rollback_target(workspace: Workspace, reference: str) -> str | None:
    """Return the adapter that a rollback would restore; None without an earlier holder that can be promoted."""
    with workspace.database.read() as session:
        adapter, _ = _earlier_holder(session, _find(session, reference))
        return None if adapter is None else adapter.name


def _earlier_holder(
    session: Session, alias: tables.AliasRow
) -> tuple[tables.AdapterRow | None, Mapping[str, str]]:
    """Return the adapter to roll back to, or None and why not to any other holder, by name, the last holder first."""
    query = select(tables.AliasMoveRow).where(tables.AliasMoveRow.alias_id == alias.id)
    moves = session.scalars(query.order_by(tables.AliasMoveRow.id)).all()
    # The log has one entry of each move, which says whether it was a rollback.
    logged = history(session, kind="alias", subject=text_of(alias), action=ALIAS_MOVED, limit=len(moves))
    back = [bool(json.loads(event.detail).get(_ROLLBACK)) for event in logged]
    # The present holder last; a rollback removes the one it left.
    holders, others = list[int](), dict[int, None]()
    for move_row, was_back in zip(moves, [False] * (len(moves) - len(back)) + back, strict=True):
        holder = move_row.to_adapter_id
        if holder is None:
            continue
        others.pop(holder, None)
        others[holder] = None
        if was_back and holders[-2:-1] == [holder]:
            holders.pop()
        elif holders[-1:] != [holder]:
            holders.append(holder)
    earlier = [session.get_one(tables.AdapterRow, number) for number in holders[-2:-1]]
    if earlier and standing_yank(session, earlier[0]) is None:
        return earlier[0], {}
    reasons = dict[str, str]()
    for number in [number for number in reversed(others) if number != alias.adapter_id][:_REASONS]:
        adapter = session.get_one(tables.AdapterRow, number)
        reason = "held it before" if number in holders else "was left by a rollback"
        if (yank := standing_yank(session, adapter)) is not None:
            reason = f"was yanked by {yank.by} on {yank.at:%Y-%m-%d}: {yank.reason}"
        reasons[adapter.name] = f"{adapter.name} {reason}"
    return None, reasons


def aliases_for(workspace: Workspace, reference: str) -> list[str]:
    """Return the aliases that an adapter can be given, `TASK#NAME` each: those of its task, and those with rules for it."""
    alias, rule = tables.AliasRow, tables.AliasRuleRow
    with workspace.database.read() as session:
        query = select(tables.AdapterRow).options(joinedload(tables.AdapterRow.task))
        task = resolve_adapter(session, reference, query).task
        own = select(alias.name).where(alias.task_id == task.id)
        ruled = select(rule.alias).where(rule.task.in_(("", task.name)))
        return sorted(f"{task.name}#{name}" for name in session.scalars(union(own, ruled)))


def list_aliases(
    workspace: Workspace, task: str | None = None, *, limit: int | None = None, offset: int = 0
) -> list[Alias]:
    """Return the aliases that hold an adapter, by task and name."""
    query = _holders(None).where(tables.AdapterRow.id.is_not(None))
    query = query.order_by(tables.TaskRow.name, tables.AliasRow.name).limit(limit).offset(offset or None)
    if task is not None:
        query = query.where(tables.TaskRow.name == task.casefold())
    with workspace.database.read() as session:
        rows = session.execute(query).all()
        withdrawals = of_adapters(session, [row.holder for row in rows])
        return [
            Alias(
                alias=f"{row.task}#{row.alias}",
                withdrawals=withdrawals.get(row.holder, ()),
                **{name: getattr(row, name) for name in ("task", "adapter", "since", "by", "reason")},
            )
            for row in rows
        ]


def alias_history(
    workspace: Workspace, reference: str, *, limit: int | None = None, offset: int = 0
) -> list[AliasMove]:
    """Return the moves of an alias, oldest first."""
    with workspace.database.read() as session:
        alias, moved = _find(session, reference), tables.AliasMoveRow
        query = select(moved).where(moved.alias_id == alias.id).order_by(moved.id.desc())
        moves = session.scalars(query.limit(limit).offset(offset or None)).all()[::-1]
        ids = {number for move in moves for number in (move.from_adapter_id, move.to_adapter_id) if number}
        names = adapter_names(session, ids)
        return [move_record(alias, move, names) for move in moves]


def _allow(
    session: Session, alias: tables.AliasRow, verb: str, reason: str, emergency: bool
) -> Mapping[str, bool]:
    if emergency and not reason.strip():
        hint = f"fusery alias {verb} {text_of(alias)} --emergency --reason TEXT"
        raise BadInputError("an emergency needs a reason", hint=hint)
    if not emergency:
        hint = f"fusery promote REF {alias.name}, or at once: fusery alias {verb} {text_of(alias)} --emergency --reason TEXT"
        refuse_guarded(session, alias.task.name, alias.name, hint=hint)
        return {}
    return {"emergency": True}


def _find(session: Session, text: str) -> tables.AliasRow:
    reference = alias_reference(text)
    query = (
        select(tables.AliasRow)
        .join(tables.AliasRow.task)
        .where(tables.TaskRow.name == reference.task, tables.AliasRow.name == reference.value)
    )
    row = session.scalar(query)
    if row is None:
        raise no_alias(session, text)
    return row


def alias_reference(text: str) -> Reference:
    """Return the reference `task#alias`."""
    reference = Reference.parse(text)
    if reference.kind != "alias":
        raise BadInputError(
            f"{text[:60]!r} is not an alias", hint="write TASK#ALIAS, for example course_rec#prod"
        )
    return reference


def show_alias(workspace: Workspace, reference: str, *, at: str | None = None) -> AliasHolder:
    """Return the adapter that an alias holds, or held at a moment, to the microsecond."""
    moment = parse_moment(at, end_of_day=True) if at is not None else None
    wanted = alias_reference(reference)
    with workspace.database.read() as session:
        row = _held(session, wanted, moment)
        if row is None:
            raise no_alias(session, reference)
        withdrawals = of_adapters(session, [row.holder] if row.holder is not None else [], at=moment)
    return AliasHolder(
        alias=f"{row.task}#{row.alias}",
        yanked=None if row.adapter is None else bool(row.yanked),
        withdrawals=withdrawals.get(row.holder, ()),
        at=moment,
        **{name: getattr(row, name) for name in ("adapter", "digest", "since", "by", "reason")},
    )


def holder_then(session: Session, wanted: Reference, moment: datetime) -> int | None:
    """Return the row number of the adapter that an alias held at a moment; None if it held none or does not exist."""
    row = _held(session, wanted, moment)
    return None if row is None else row.holder


def _held(session: Session, wanted: Reference, moment: datetime | None) -> Any:
    """Return the row of an alias; see `_holders`; None if there is no such alias."""
    is_wanted = (tables.TaskRow.name == wanted.task) & (tables.AliasRow.name == wanted.value)
    return session.execute(_holders(moment).where(is_wanted)).first()


def _holders(moment: datetime | None) -> Select[*tuple[Any, ...]]:
    """Return the query for aliases with their last moves until a moment, and where those went."""
    task, alias, moved, adapter = tables.TaskRow, tables.AliasRow, tables.AliasMoveRow, tables.AdapterRow
    newest = select(moved.id).where(moved.alias_id == alias.id).correlate(alias).limit(1)
    if moment is None:
        newest = newest.order_by(moved.id.desc())
    else:
        # Of several moves in one moment the last one counts.
        newest = newest.where(moved.at <= moment).order_by(moved.at.desc(), moved.id.desc())
    return (
        select(
            task.name.label("task"),
            alias.name.label("alias"),
            adapter.name.label("adapter"),
            adapter.digest,
            adapter.id.label("holder"),
            moved.at.label("since"),
            moved.by,
            moved.reason,
            is_yanked(adapter.id, moment).label("yanked"),
        )
        .select_from(alias)
        .join(task, task.id == alias.task_id)
        .outerjoin(moved, moved.id == newest.scalar_subquery())
        .outerjoin(adapter, adapter.id == moved.to_adapter_id)
    )
