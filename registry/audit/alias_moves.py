"""Compare aliases with their moves, and the moves with their log entries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased, joinedload

from .. import tables
from ..records.alias_moves import ALIAS_MOVED, text_of
from .records import Discrepancy

_Stated = tuple[datetime, str | None, str | None, str]
"""The time of a move, the adapters before and after, and the reason."""


def check_alias_moves(session: Session) -> Iterator[Discrepancy]:
    """Yield aliases that contradict their last move, and moves that contradict the log."""
    logged = _logged(session)
    query = select(tables.Alias).options(joinedload(tables.Alias.task)).order_by(tables.Alias.id)
    for alias in session.scalars(query):
        subject = f"alias {text_of(alias)}"
        for message in _problems(session, alias, logged.get(text_of(alias), [])):
            yield Discrepancy("alias_unexplained", subject, message)


def _problems(session: Session, alias: tables.Alias, logged: Sequence[tuple[int, _Stated]]) -> Iterator[str]:
    entries: dict[_Stated, list[int]] = defaultdict(list)
    for seq, stated in logged:
        entries[stated].append(seq)
    holder: int | None = None
    for move, before, after in _moves(session, alias):
        which = f"the move to {after or 'nothing'} by {move.by} at {move.at.isoformat(timespec='seconds')}"
        if move.from_adapter_id != holder:
            yield f"{which} does not follow from the one before"
        if found := entries[move.at, before, after, move.reason]:
            found.pop(0)
        else:
            yield f"the log has no entry for {which}"
        holder = move.to_adapter_id
    for seq in sorted(seq for left in entries.values() for seq in left):
        yield f"entry {seq} of the log tells of a move that is not on record"
    if alias.adapter_id != holder:
        yield "it holds another adapter than its last move says"


def _moves(session: Session, alias: tables.Alias) -> Iterator[Any]:
    """Yield the moves of an alias, oldest first, each with the names of the adapters before and after."""
    moved, before, after = tables.AliasMove, aliased(tables.Adapter), aliased(tables.Adapter)
    query = (
        select(moved, before.name, after.name)
        .outerjoin(before, before.id == moved.from_adapter_id)
        .outerjoin(after, after.id == moved.to_adapter_id)
        .where(moved.alias_id == alias.id)
        .order_by(moved.id)
    )
    yield from session.execute(query)


def _logged(session: Session) -> Mapping[str, list[tuple[int, _Stated]]]:
    """Return the moves in the log, oldest first, by alias."""
    event = tables.Event
    query = select(event.seq, event.subject, event.at, event.detail).where(event.action == ALIAS_MOVED)
    found: dict[str, list[tuple[int, _Stated]]] = defaultdict(list)
    for seq, subject, at, detail in session.execute(query.order_by(event.seq)):
        said = _parsed(detail)
        stated = (at, _name(said.get("from")), _name(said.get("to")), str(said.get("reason")))
        found[subject].append((seq, stated))
    return found


def _parsed(detail: str) -> Mapping[str, Any]:
    try:
        found = json.loads(detail)
    except (ValueError, TypeError):
        return {}  # `events.verify_chain` reports the entry
    return found if isinstance(found, dict) else {}


def _name(adapter: Any) -> str | None:
    return str(adapter.get("name")) if isinstance(adapter, dict) else None
