"""Recorded rules of aliases: set, show, list and remove, logged with the state before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database import events
from ..errors import UnknownReferenceError
from ..names import parse_alias, parse_task
from ..records.guards import EVERY_TASK, rule_for, text_of
from ..records.release import AliasRules, RemovedRules, SetRules
from .rules import make_rules

if TYPE_CHECKING:
    from ..workspace import Workspace


def set_rules(
    workspace: Workspace,
    target: str,
    rules: Mapping[str, Any] | None,
    *,
    guarded: bool | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> SetRules:
    """Replace the rules of an alias.

    Args:
        workspace: the registry's parts.
        target: `prod` for that alias of every task, `course_rec#prod` for one task, whose own rules take precedence.
        rules: by name, as `fusery.registry.releases.rules.Rules` has them; None to keep the present ones.
        guarded: only a promotion may move the alias.  The default is yes, whatever it was before, so that the same
            command or file always has the same effect.
        reason: for the log.
        dry_run: only check and show them.

    Raises:
        BadInputError: the alias or the rules are not valid.
    """
    task, alias = _target(target)
    values = None if rules is None else make_rules(rules).to_dict()
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        row = _own(session, task, alias)
        before = _stated(row)
        if values is None:
            values = row.rules if row is not None else {}
        after = {"guarded": guarded is not False, "rules": values}
        changed = before != after
        if changed and not dry_run:
            row = _written(workspace, session, row or tables.AliasRule(task=task, alias=alias), after)
            _tell(workspace, session, row, "rules.set", {"before": before, **after, "reason": reason})
        shown = row or tables.AliasRule(task=task, alias=alias)
        return SetRules(
            **{**_facts(shown), **after},
            changed=changed,
            applies_to=tuple(_aliases_under(session, task, alias)),
        )


def show_rules(workspace: Workspace, target: str) -> AliasRules:
    """Return the rules that apply to an alias: its own, or those for every task.

    Raises:
        UnknownReferenceError: it has none.
        BadInputError: that is no alias.
    """
    task, alias = _target(target)
    with workspace.database.read() as session:
        row = rule_for(session, task, alias)
        if row is None:
            raise _none(target)
        return rules_record(row)


def list_rules(workspace: Workspace) -> list[AliasRules]:
    """Return all rules, those for every task first."""
    rule = tables.AliasRule
    with workspace.database.read() as session:
        return [rules_record(row) for row in session.scalars(select(rule).order_by(rule.task, rule.alias))]


def remove_rules(
    workspace: Workspace, target: str, *, reason: str = "", dry_run: bool = False
) -> RemovedRules:
    """Remove the rules of an alias, and return them; those for every task then apply to it.

    Raises:
        UnknownReferenceError: it has none of its own.
        BadInputError: that is no alias.
    """
    task, alias = _target(target)
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        row = _own(session, task, alias)
        if row is None:
            raise _none(target)
        facts = _facts(row)
        if not dry_run:
            detail = {"before": _stated(row), "guarded": False, "rules": {}, "reason": reason}
            session.delete(row)
            _tell(workspace, session, row, "rules.removed", detail)
        return RemovedRules(**facts, removed=not dry_run)


def _target(text: str) -> tuple[str, str]:
    task, hash_mark, alias = text.strip().rpartition("#")
    if not hash_mark or task in ("", EVERY_TASK):
        return "", parse_alias(alias)
    return parse_task(task), parse_alias(alias)


def _own(session: Session, task: str, alias: str) -> tables.AliasRule | None:
    rule = tables.AliasRule
    return session.scalar(select(rule).where(rule.task == task, rule.alias == alias))


def _written(
    workspace: Workspace, session: Session, row: tables.AliasRule, after: Mapping[str, Any]
) -> tables.AliasRule:
    row.guarded, row.rules = after["guarded"], after["rules"]
    row.created_at, row.created_by = workspace.database.utcnow(session), workspace.actor
    session.add(row)
    return row


def _aliases_under(session: Session, task: str, alias: str) -> list[str]:
    """Return the aliases of today that these rules are for: not those with rules of their own."""
    row, kept, rule = tables.Alias, tables.Task, tables.AliasRule
    query = select(kept.name).join(row, row.task_id == kept.id).where(row.name == alias).order_by(kept.name)
    if task:
        query = query.where(kept.name == task)
    else:
        query = query.where(kept.name.not_in(select(rule.task).where(rule.alias == alias)))
    return [f"{name}#{alias}" for name in session.scalars(query)]


def _tell(
    workspace: Workspace, session: Session, row: tables.AliasRule, action: str, detail: Mapping[str, Any]
) -> None:
    session.flush()
    events.record(
        session, action=action, kind="alias", subject=text_of(row), detail=detail, actor=workspace.actor
    )


def _stated(row: tables.AliasRule | None) -> dict[str, Any] | None:
    return None if row is None else {"guarded": row.guarded, "rules": row.rules}


def rules_record(row: tables.AliasRule) -> AliasRules:
    """Return the record of the rules of an alias."""
    return AliasRules(**_facts(row))


def _facts(row: tables.AliasRule) -> dict[str, Any]:
    return {
        "alias": text_of(row),
        "task": row.task or None,
        "guarded": row.guarded,
        "rules": row.rules,
        "at": row.created_at,
        "by": row.created_by,
    }


def _none(target: str) -> UnknownReferenceError:
    return UnknownReferenceError(f"there are no rules for {target!r}", hint="fusery rules list")
