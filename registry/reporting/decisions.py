"""What a report says of promotions: the rules of a task's aliases, who approved, and what came of each rule each time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from .. import tables
from ..database.batches import batches
from ..records.alias_moves import ALIAS_MOVED
from ..records.overtaken import ALIAS_CONFIRMED
from ..records.views import moment
from ..releases.keeping import rules_record
from ..releases.promote import ALIAS_REFUSED

MOST_DECISIONS = 50
_JUDGED = '%"rules":[%'
"""How a move that rules were asked about is told in the log: within a text, the quotes would be escaped."""


def rules_of(session: Session, task: tables.Task) -> list[dict[str, Any]]:
    """Return the rules that count for a task's aliases: its own, and those of every task that it has none instead of."""
    rule = tables.AliasRule
    rows = session.scalars(
        select(rule).where(rule.task.in_((task.name, ""))).order_by(rule.alias, rule.task.desc())
    )
    found: dict[str, tables.AliasRule] = {}
    for row in rows:
        found.setdefault(row.alias, row)
    return [rules_record(row).to_dict() for row in found.values()]


def approvals_of(session: Session, adapters: Sequence[int]) -> dict[str, Any]:
    """Return who approved of an alias holding one of these adapters, the newest first."""
    approval, adapter = tables.Approval, tables.Adapter
    rows: list[Any] = []
    total = 0
    for chosen in batches(adapters):
        about = approval.adapter_id.in_(chosen)
        query = select(approval, adapter.name).join(adapter, adapter.id == approval.adapter_id).where(about)
        rows += session.execute(query.order_by(approval.id.desc()).limit(MOST_DECISIONS)).all()
        total += session.scalar(select(func.count()).select_from(approval).where(about)) or 0
    rows.sort(key=lambda found: -found[0].id)
    return {
        "approvals": [
            {
                "adapter": name,
                "alias": row.alias,
                "by": row.by,
                "at": moment(row.at),
                "note": row.note,
                "authenticated": bool(row.authenticated),
                "withdrawn_at": moment(row.withdrawn_at) if row.withdrawn_at else None,
            }
            for row, name in rows[:MOST_DECISIONS]
        ],
        "approvals_total": total,
    }


def decisions_of(
    session: Session, task: tables.Task, aliases: Iterable[str], only: tables.Adapter | None
) -> dict[str, Any]:
    """Return the promotions of a task's aliases that rules decided, the newest first: moves, refusals, confirmations.

    Args:
        session: of a read transaction.
        task: whose aliases.
        aliases: their names, and names that only rules have.
        only: only what was decided about this adapter.

    Returns:
        `decisions`, each `alias`, `adapter`, `outcome` (`promoted`, `refused`, `confirmed`), `verdict`, `at`, `by`,
        `reason` and `rules` as `promote` tells them; and `decisions_total`.
    """
    subjects = [f"{task.name}#{name}" for name in sorted(set(aliases))]
    found = [_decision(event) for event in _events(session, subjects)]
    if only is not None:
        found = [each for each in found if each["adapter"] == only.name]
    return {"decisions": found[:MOST_DECISIONS], "decisions_total": len(found)}


def _events(session: Session, subjects: Sequence[str]) -> list[tables.Event]:
    event = tables.Event
    judged = or_(
        event.action.in_((ALIAS_REFUSED, ALIAS_CONFIRMED)),
        and_(event.action == ALIAS_MOVED, event.detail.like(_JUDGED)),
    )
    query = select(event).where(event.subject_kind == "alias", event.subject.in_(subjects), judged)
    return list(session.scalars(query.order_by(event.seq.desc()))) if subjects else []


_OUTCOMES = {ALIAS_MOVED: "promoted", ALIAS_REFUSED: "refused", ALIAS_CONFIRMED: "confirmed"}


def _decision(event: tables.Event) -> dict[str, Any]:
    detail = json.loads(event.detail)
    return {
        "alias": event.subject.partition("#")[2],
        "adapter": (detail.get("to") or {}).get("name"),
        "outcome": _OUTCOMES[event.action],
        "verdict": detail.get("verdict", "passed"),
        "at": moment(event.at),
        "by": event.actor,
        "reason": detail.get("reason", ""),
        "rules": detail.get("rules", []),
    }
