"""Promotion: an alias moves to an adapter that fulfils its rules; otherwise the refusal is logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from .. import tables
from ..database import events
from ..errors import BadInputError
from ..records.alias_moves import alias_row, move, stated
from ..records.guards import rule_for
from ..records.licences import base_licence
from ..records.overtaken import ALIAS_CONFIRMED, judged_against, overtaken
from ..records.references import load_adapters, resolve_adapter
from ..records.release import Outcome, Promotion
from ..records.withdrawals import told_of
from .approvals import alias_of
from .judging import Case, judge, verdict_of
from .rules import make_rules

if TYPE_CHECKING:
    from ..workspace import Workspace

ALIAS_REFUSED = "alias.refused"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The request, with facts that are read before the deciding transaction; the licence comes from files."""

    adapter_id: int
    alias: str
    licence: str | None
    licence_read: bool


def promote(
    workspace: Workspace, reference: str, alias: str, *, reason: str = "", dry_run: bool = False
) -> Promotion:
    """Move an alias to an adapter that fulfils every rule of the alias; else record the refusal.

    The rules are evaluated in the transaction that moves the alias, which is the only writer: a concurrent promotion is
    compared with the holder at that point.  The holder itself is evaluated again if facts that its rules used were amended.

    Args:
        workspace: the registry's parts.
        reference: the adapter, resolved when the transaction begins.
        alias: `prod`, or `course_rec#prod`.
        reason: for the log.
        dry_run: only evaluate; record nothing.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: the alias is not one of its task.
    """
    wanted = _look(workspace, reference, alias)
    if dry_run:
        with workspace.database.read() as session:
            case, rule, again = _case(session, wanted)
            outcomes = judge(case, _recorded(rule))
            return _told(case, outcomes, rule, reason, again=again, dry_run=True)
    with workspace.database.write() as session:
        case, rule, again = _case(session, wanted)
        outcomes = judge(case, _recorded(rule))
        told = [outcome.to_dict() for outcome in outcomes]
        if verdict_of(outcomes) != "passed":
            _refuse(workspace, case, outcomes, reason)
            return _told(case, outcomes, rule, reason, again=again)
        if again:
            _record(workspace, case, ALIAS_CONFIRMED, reason or "promoted", {"rules": told})
            return _told(case, outcomes, rule, reason, again=True, confirmed=True)
        row = alias_row(session, case.adapter, case.alias)
        done = move(workspace, session, row, case.adapter, reason or "promoted", {"rules": told})
        return _told(case, outcomes, rule, reason, moved=done.moved)


def _look(workspace: Workspace, reference: str, alias: str) -> _Wanted:
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference, _with_its_base())
        name, base = alias_of(adapter, alias), adapter.base
        rule = rule_for(session, adapter.task.name, name)
        needed = rule is not None and _asks_for_licence(rule)
        assert not needed or base.manifest.files is not None  # loaded, while the session is there
    return _Wanted(adapter.id, name, base_licence(workspace, base) if needed else None, needed)


def _with_its_base() -> Select[tables.Adapter]:
    adapter = tables.Adapter
    return select(adapter).options(joinedload(adapter.task), joinedload(adapter.base))


def _asks_for_licence(rule: tables.AliasRule) -> bool:
    try:
        return make_rules(rule.rules).licences is not None
    except BadInputError:
        return False


def _case(session: Session, wanted: _Wanted) -> tuple[Case, tables.AliasRule | None, bool]:
    """Return what is to be judged, by which rules, and whether it is the holder that is judged once more.

    A holder is held against the one before it, and that only where an amendment has overtaken its promotion.
    """
    adapter = session.scalars(load_adapters().where(tables.Adapter.id == wanted.adapter_id)).one()
    query = select(tables.Alias).where(
        tables.Alias.task_id == adapter.task_id, tables.Alias.name == wanted.alias
    )
    row = session.scalar(query.options(joinedload(tables.Alias.adapter)))
    holder = row.adapter if row is not None else None
    again = row is not None and holder is adapter and bool(overtaken(session, row))
    if again and row is not None:
        holder = judged_against(session, row)
    case = Case(session, adapter, wanted.alias, holder, wanted.licence, wanted.licence_read)
    return case, rule_for(session, adapter.task.name, wanted.alias), again


def _recorded(rule: tables.AliasRule | None) -> Mapping[str, Any] | None:
    return None if rule is None else rule.rules


def _refuse(workspace: Workspace, case: Case, outcomes: list[Outcome], reason: str) -> None:
    """Record that an alias was not moved, and why."""
    told = {
        "verdict": verdict_of(outcomes),
        "reasons": [f"{found.rule}: {found.why}" for found in outcomes if found.state != "passed"],
        "rules": [found.to_dict() for found in outcomes],
    }
    _record(workspace, case, ALIAS_REFUSED, reason, told)


def _record(workspace: Workspace, case: Case, action: str, reason: str, told: Mapping[str, Any]) -> None:
    events.record(
        case.session,
        action=action,
        kind="alias",
        subject=case.reference,
        detail={"from": stated(case.holder), "to": stated(case.adapter), "reason": reason, **told},
        actor=workspace.actor,
    )


def _told(
    case: Case,
    outcomes: list[Outcome],
    rule: tables.AliasRule | None,
    reason: str,
    *,
    again: bool = False,
    moved: bool = False,
    confirmed: bool = False,
    dry_run: bool = False,
) -> Promotion:
    holder = case.adapter if again else case.holder
    return Promotion(
        alias=case.reference,
        adapter=case.adapter.name,
        holder=holder.name if holder else None,
        verdict=verdict_of(outcomes),
        guarded=rule is not None and rule.guarded,
        moved=moved,
        confirmed=confirmed,
        dry_run=dry_run,
        reason=reason,
        withdrawals=told_of(case.session, [case.adapter]),
        rules=tuple(outcomes),
    )
