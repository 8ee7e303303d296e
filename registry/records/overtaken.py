"""Promotions that an amendment has overtaken: what an alias's holder was judged by was corrected since.

The order is that of the log's entries: times are what somebody wrote, and an amendment that comes from another registry
was made before it counts here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database.log import parse_seals
from .alias_moves import ALIAS_MOVED, text_of
from .guards import EVERY_TASK

ALIAS_CONFIRMED = "alias.confirmed"
"""The holder of an alias was judged once more, because of an amendment."""

_RULES_CHANGED = ("rules.set", "rules.removed")
_JUDGED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "val_loss_within": {"to": ("val_loss",), "from": ("val_loss",)},
    "licences": {"to": ("tag.licence", "tag.license")},
}
"""Of each rule that judges by what can be amended: which fields of the candidate, and of the holder before it."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A judgement that rests on a value which was corrected since.

    Attributes:
        alias: `task#alias`.
        rule: the rule that judged by it.
        adapter: name of the adapter that was amended.
        amendment: the row.
        entry: of the log, with the judgement.
    """

    alias: str
    rule: str
    adapter: str
    amendment: tables.Amendment
    entry: int

    @property
    def message(self) -> str:
        """What is the case, in one sentence."""
        was, will = self.amendment.before[:80], self.amendment.after[:80]
        return (
            f"{self.amendment.field} of {self.adapter} was amended from {was} to {will} by {self.amendment.by}, after "
            f"{self.rule} had judged by it in entry {self.entry} of the log; promote the holder again, or another"
        )


def overtaken(
    session: Session, alias: tables.Alias, entries: Mapping[int, int] | None = None
) -> list[Overtaken]:
    """Return what the present holder of an alias was judged by and was corrected since.

    Args:
        session: of any transaction.
        alias: which.
        entries: of each amendment, the entry of the log that has it; looked up in the log if they are not known.
    """
    event = tables.Event
    query = select(event).where(event.subject_kind == "alias", event.subject == text_of(alias))
    query = query.where(event.action.in_((ALIAS_MOVED, ALIAS_CONFIRMED))).order_by(event.seq.desc()).limit(1)
    judged = session.scalars(query).first()
    if judged is None:
        return []
    detail = _detail(judged.detail)
    found = []
    for rule in _rules_then(session, alias, judged.seq):
        for side, fields in _JUDGED.get(rule, {}).items():
            adapter = _named(session, detail.get(side))
            if adapter is None:
                continue
            known = _entries(session, adapter, judged.seq) if entries is None else entries
            found += [
                Overtaken(text_of(alias), rule, adapter.name, row, judged.seq)
                for row in adapter.amendments
                if row.field in fields and known.get(row.id, 0) > judged.seq
            ]
    return found


def judged_against(session: Session, alias: tables.Alias) -> tables.Adapter | None:
    """Return the adapter that an alias held before its present holder; None if it held none."""
    moved = tables.AliasMove
    query = select(moved.from_adapter_id).where(
        moved.alias_id == alias.id, moved.to_adapter_id == alias.adapter_id
    )
    number = session.scalars(query.order_by(moved.id.desc()).limit(1)).first()
    return None if number is None else session.get(tables.Adapter, number)


def _entries(session: Session, adapter: tables.Adapter, since: int) -> dict[int, int]:
    """Return the entries about an adapter that amendments are sealed in."""
    event = tables.Event
    query = select(event.seq, event.seals).where(
        event.subject_kind == "adapter", event.subject == adapter.name, event.seq > since
    )
    rows = session.execute(query.where(event.seals.is_not(None))).all()
    return {number: row.seq for row in rows for number in _amendments(row.seals)}


def _amendments(text: str) -> Iterator[int]:
    with suppress(ValueError):  # the chain's matter
        yield from (seal.number for seal in parse_seals(text) if seal.kind == "amendment")


def _detail(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}  # the chain's matter
    return found if isinstance(found, dict) else {}


def _rules_then(session: Session, alias: tables.Alias, entry: int) -> Iterator[str]:
    """Yield the rules that an alias had at an entry, by the log: what an entry says of rules is its client's word."""
    event = tables.Event
    for subject in (text_of(alias), f"{EVERY_TASK}#{alias.name}"):
        query = select(event).where(
            event.subject_kind == "alias", event.subject == subject, event.seq < entry
        )
        query = query.where(event.action.in_(_RULES_CHANGED)).order_by(event.seq.desc()).limit(1)
        told = session.scalars(query).first()
        if told is not None and told.action == "rules.set":
            rules = _detail(told.detail).get("rules")
            yield from rules if isinstance(rules, dict) else ()
            return


def _named(session: Session, stated: Any) -> tables.Adapter | None:
    name = stated.get("name") if isinstance(stated, dict) else None
    return session.scalar(select(tables.Adapter).where(tables.Adapter.name == str(name)))
