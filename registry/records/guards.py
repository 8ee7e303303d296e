"""Which rules an alias has, and that a guarded one is moved by a promotion only."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import AliasGuardedError

EVERY_TASK = "*"
"""How the task of rules for every task is written."""


def rule_for(session: Session, task: str, alias: str) -> tables.AliasRule | None:
    """Return the rules of an alias: those of its task, or else those of every task."""
    rule = tables.AliasRule
    query = select(rule).where(rule.task.in_((task, "")), rule.alias == alias)
    return session.scalar(query.order_by(rule.task.desc()).limit(1))


def refuse_guarded(session: Session, task: str, alias: str, *, hint: str) -> None:
    """Refuse to move an alias that only a promotion may move.

    Raises:
        AliasGuardedError: it is guarded.
    """
    rule = rule_for(session, task, alias)
    if rule is not None and rule.guarded:
        raise AliasGuardedError(f"{task}#{alias} is guarded: only a promotion moves it", hint=hint)


def text_of(rule: tables.AliasRule) -> str:
    """Return which alias rules are for: `course_rec#prod`, or `*#prod` for every task."""
    return f"{rule.task or EVERY_TASK}#{rule.alias}"
