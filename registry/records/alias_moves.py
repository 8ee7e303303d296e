"""Moves of aliases: a row of the history and the event about it, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.secrets import without_credentials

from .. import tables
from ..database import events
from ..database.events import parse_seals
from ..errors import AliasGuardedError
from ..workspace.workspace import Workspace
from .release import AliasMove, Moved

EVERY_TASK = "*"  # how the task of rules for every task is written


def rule_for(session: Session, task: str, alias: str) -> tables.AliasRuleRow | None:
    """Return the rules of an alias: those of its task, or else those of every task."""
    rule = tables.AliasRuleRow
    query = select(rule).where(rule.task.in_((task, "")), rule.alias == alias)
    return session.scalar(query.order_by(rule.task.desc()).limit(1))


def refuse_guarded(session: Session, task: str, alias: str, *, hint: str) -> None:
    """Refuse to move an alias that only a promotion may move."""
    rule = rule_for(session, task, alias)
    if rule is not None and rule.guarded:
        raise AliasGuardedError(f"{task}#{alias} is guarded: only a promotion moves it", hint=hint)


def rule_target(rule: tables.AliasRuleRow) -> str:
    """Return which alias rules are for: `course_rec#prod`, or `*#prod` for every task."""
    return f"{rule.task or EVERY_TASK}#{rule.alias}"


ALIAS_MOVED = "alias.moved"


def alias_row(session: Session, adapter: tables.AdapterRow, name: str) -> tables.AliasRow:
    """Return an alias of an adapter's task, or a new one, which is recorded when it moves."""
    alias = tables.AliasRow
    row = session.scalar(select(alias).where(alias.task_id == adapter.task_id, alias.name == name))
    return row or alias(task_id=adapter.task_id, task=adapter.task, name=name, adapter_id=None)


def move(
    workspace: Workspace,
    session: Session,
    alias: tables.AliasRow,
    to: tables.AdapterRow | None,
    reason: str,
    extra_detail: Mapping[str, Any] | None = None,
) -> Moved:
    """Move an alias, in the caller's write transaction, with the event of it."""
    if alias in session:
        session.refresh(alias, ["adapter_id"], with_for_update=True)
    before = session.get(tables.AdapterRow, alias.adapter_id) if alias.adapter_id is not None else None
    moved = (before.id if before else None) != (to.id if to else None)
    moves = tables.AliasMoveRow
    newest = select(moves.at).where(moves.alias_id == alias.id).order_by(moves.at.desc()).limit(1)
    at, last = workspace.database.utcnow(session), session.scalar(newest)
    if last is not None:  # a clock that was set back must not turn the history round
        at = max(at, last)
    made = moves(
        alias_id=alias.id,
        from_adapter_id=before.id if before else None,
        to_adapter_id=to.id if to else None,
        reason=str(without_credentials(reason)),
        at=at,
        by=workspace.actor,
    )
    names = {adapter.id: adapter.name for adapter in (before, to) if adapter is not None}
    result = Moved.extending(move_record(alias, made, names), moved=moved)
    if moved:
        session.add(alias)
        session.flush()
        alias.adapter_id, made.alias_id = made.to_adapter_id, alias.id
        session.add(made)
        session.flush()
        detail = {"from": stated(before), "to": stated(to), "reason": reason, **(extra_detail or {})}
        events.record(session, ALIAS_MOVED, "alias", text_of(alias), detail, at=at)
    return result


def stated(adapter: tables.AdapterRow | None) -> dict[str, str] | None:
    """Name an adapter beyond doubt, for the log."""
    return None if adapter is None else {"name": adapter.name, "digest": adapter.digest}


def move_record(alias: tables.AliasRow, move: tables.AliasMoveRow, names: Mapping[int, str]) -> AliasMove:
    """Return the record of a move; `names` are those of adapters by their rows."""
    before, after = (names.get(number or 0) for number in (move.from_adapter_id, move.to_adapter_id))
    return AliasMove.from_row(move, alias=text_of(alias), task=alias.task.name, from_=before, to=after)


def text_of(alias: tables.AliasRow) -> str:
    """Return an alias with its task."""
    return f"{alias.task.name}#{alias.name}"


ALIAS_CONFIRMED = "alias.confirmed"  # the holder of an alias was judged once more, because of an amendment

_JUDGED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "val_loss_within": {"to": ("val_loss",), "from": ("val_loss",)},
    "licences": {"to": ("tag.licence", "tag.license")},
}
"""Of each rule that judges by what can be amended: which fields of the candidate, and of the holder before it."""


def overtaken(session: Session, alias: tables.AliasRow) -> list[str]:
    """Return a sentence for each value that the present holder of an alias was judged by and that was amended since."""
    event, adapter, messages = tables.EventRow, tables.AdapterRow, list[str]()
    query = select(event).where(event.subject_kind == "alias", event.subject == text_of(alias))
    query = query.where(event.action.in_((ALIAS_MOVED, ALIAS_CONFIRMED))).order_by(event.seq.desc()).limit(1)
    judged = session.scalars(query).first()
    detail = {} if judged is None else json.loads(judged.detail)
    for outcome in detail.get("rules", ()) if judged is not None else ():
        for side, fields in _JUDGED.get(outcome["rule"], {}).items():
            holder = session.scalar(select(adapter).where(adapter.name == (detail[side] or {}).get("name")))
            if holder is None or judged is None:
                continue
            sealed = select(event.seq, event.seals).where(
                event.subject_kind == "adapter", event.subject == holder.name, event.seq > judged.seq
            )
            entries = dict[int, int]()
            for seq, seals in session.execute(sealed.where(event.seals.is_not(None))):
                with suppress(ValueError):  # the audit of the chain reports it
                    amended = (seal.number for seal in parse_seals(str(seals)) if seal.kind == "amendment")
                    entries |= dict.fromkeys(amended, seq)
            messages += [
                f"{row.field} of {holder.name} was amended from {row.before[:80]} to {row.after[:80]} by {row.by}, after "
                f"{outcome['rule']} had judged by it in entry {judged.seq} of the log; promote the holder again, or another"
                for row in holder.amendments
                if row.field in fields and entries.get(row.id, 0) > judged.seq
            ]
    return messages


def judged_against(session: Session, alias: tables.AliasRow) -> tables.AdapterRow | None:
    """Return the adapter that an alias held before its present holder; None if it held none."""
    row = tables.AliasMoveRow
    query = select(row.from_adapter_id).where(row.alias_id == alias.id, row.to_adapter_id == alias.adapter_id)
    number = session.scalars(query.order_by(row.id.desc()).limit(1)).first()
    return None if number is None else session.get(tables.AdapterRow, number)
