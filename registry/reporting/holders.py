"""Which version holds an alias and why: who moved it, when, with which words, and what the rules said, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..charts.text import short, version_of, when
from ..parsing import plural
from ..records.alias_moves import ALIAS_MOVED
from ..records.overtaken import ALIAS_CONFIRMED
from ..records.views import moment
from ..records.withdrawals import stands

_FIRST = ("prod", "production")
"""What a reader asks about first."""


def holders(
    session: Session, task: str, aliases: Sequence[Mapping[str, Any]], yanks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what each alias holds and why, `prod` first.

    Args:
        session: of a read transaction.
        task: whose aliases.
        aliases: each with its `moves`, as the facts have them.
        yanks: of the task, as the facts have them.

    Returns:
        For each `alias`, `adapter` and `version` (null for nothing), `since`, `by`, `from`, `reason`, `rules` (what each said
        when it was moved; empty where none was asked), `emergency`, `confirmed_at`, `confirmed_by`, `withdrawn` (why), and
        `says`: all of that in a sentence.
    """
    withdrawn = {yank["adapter"]: yank["reason"] for yank in yanks if stands(yank)}
    found = []
    for alias in sorted(aliases, key=_rank):
        if not alias["moves"]:
            continue
        move, told = alias["moves"][-1], _told(session, f"{task}#{alias['alias']}")
        moved, confirmed = told.get(ALIAS_MOVED, {}), told.get(ALIAS_CONFIRMED, {})
        if confirmed.get("seq", 0) < moved.get("seq", 0):
            confirmed = {}
        held = {
            "alias": alias["alias"],
            "adapter": move["to"],
            "version": version_of(task, move["to"]) if move["to"] else None,
            "since": move["at"],
            "by": move["by"],
            "from": move["from"],
            "reason": move["reason"],
            "rules": moved.get("rules", []),
            "emergency": bool(moved.get("emergency")),
            "confirmed_at": confirmed.get("at"),
            "confirmed_by": confirmed.get("actor"),
            "withdrawn": withdrawn.get(move["to"]),
        }
        found.append({**held, "says": f"{_what(held)} {_why(held, task)}"})
    return found


def _rank(alias: Mapping[str, Any]) -> tuple[int, str]:
    name = alias["alias"]
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST)), name


def _told(session: Session, subject: str) -> dict[str, dict[str, Any]]:
    """Return what the log tells of the newest move of an alias, and of its newest confirmation."""
    event, found = tables.Event, {}
    for action in (ALIAS_MOVED, ALIAS_CONFIRMED):
        query = select(event).where(
            event.subject_kind == "alias", event.subject == subject, event.action == action
        )
        row = session.scalar(query.order_by(event.seq.desc()).limit(1))
        if row is not None:
            told = {"seq": row.seq, "at": moment(row.at), "actor": row.actor}
            found[action] = {**json.loads(row.detail), **told}
    return found


def _what(held: Mapping[str, Any]) -> str:
    version = f"v{held['version']}" if held["version"] is not None else "nothing"
    return f"#{held['alias']} holds {version}"


def _why(held: Mapping[str, Any], task: str) -> str:
    """Return the sentence from `since` on."""
    before = f"from v{version_of(task, held['from'])}" if held["from"] else "there first"
    verb = "moved it" if held["adapter"] else "took it"
    said = f" (“{short(held['reason'], 200)}”)" if held["reason"].strip() else ""
    parts = [f"since {when(held['since'])}: {held['by']} {verb} {before}{said}", _evidence(held)]
    if held["confirmed_at"]:
        parts.append(f"{held['confirmed_by']} had it judged once more on {when(held['confirmed_at'])}")
    if held["withdrawn"] is not None:
        parts.append(f"that version is withdrawn now (“{short(held['withdrawn'], 200)}”)")
    return "; ".join(filter(None, parts)) + "."


def _evidence(held: Mapping[str, Any]) -> str:
    """Return what spoke for the move, as the log has it: what each rule said, an emergency, or that nothing was asked."""
    if held["emergency"]:
        return "in an emergency, past its rules"
    rules = held["rules"]
    if not rules:
        return "no rule was asked" if held["adapter"] else ""
    said = "; ".join(f"{rule['rule']}: {short(rule['why'], 120)}" for rule in rules)
    passed = "its rule was passed" if len(rules) == 1 else f"all {plural(len(rules), 'rule')} were passed"
    return f"{passed} ({said})"
