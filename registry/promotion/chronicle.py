"""What the log says of when things were recorded: the facts and rules of any moment of the past.

Moments are numbers of the log's entries, not times: the log is numbered by the database's only writer and cannot be
written into at an earlier place, whereas a time in a row is what a client wrote there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from .. import tables

_BATCH = 500
_DATED = frozenset({"alias_move", "yank", "approval", "signature", "fused", "amendment"})
"""Kinds of records whose entries are noted: those that rules ask for, and the moves themselves."""

RULES = ("rules.set", "rules.removed")
KEYS = ("key.trusted", "key.revoked")
DISOWNED = "fused.disowned"


@dataclass(frozen=True, slots=True)
class Told:
    """An entry of the log, as far as it is needed here.

    Attributes:
        action: what was done.
        subject: to what.
        detail: more.
    """

    action: str
    subject: str
    detail: Mapping[str, Any]


@dataclass(slots=True)
class Chronicle:
    """The log, read once from its beginning.

    Attributes:
        written: of each record, by kind and row number, the entries with a seal of it, in order.
        rules: of each alias, `task#alias` or `*#alias`, the entries in which its rules changed.
        keys: of each key's id, the entries in which what it counts for changed.
        moves: the entries that tell of a move of an alias.
        disowned: the entry by which an upgrade told what other registries had claimed from what was made here; until
            then both counted.
    """

    written: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    rules: dict[str, list[tuple[int, Told]]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[str, list[tuple[int, Told]]] = field(default_factory=lambda: defaultdict(list))
    moves: dict[int, Told] = field(default_factory=dict)
    disowned: int = 0

    def at(self, entry: int) -> Moment:
        """Return the moment in which an entry was written."""
        return Moment(self, entry)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of the past, by which facts can be told that there were already.

    Attributes:
        chronicle: the log.
        entry: the number of the entry that was written then.
    """

    chronicle: Chronicle
    entry: int

    def has(self, kind: str, number: int) -> bool:
        """Return whether a record was there by then."""
        written = self.chronicle.written.get((kind, number))
        return bool(written) and written[0] <= self.entry  # type: ignore[index]

    def stands(self, kind: str, number: int, ended: datetime | None) -> bool:
        """Return whether a record was there by then and had not been taken back: its last entry is of that."""
        if not self.has(kind, number):
            return False
        return ended is None or self.chronicle.written[kind, number][-1] > self.entry

    def rule(self, task: str, alias: str) -> tuple[bool, Mapping[str, Any]] | None:
        """Return whether an alias was guarded and by which rules, None where it had none."""
        for subject in (f"{task}#{alias}", f"*#{alias}"):
            told = _newest(self.chronicle.rules.get(subject, ()), self.entry)
            if told is not None and told.action == "rules.set":
                return bool(told.detail.get("guarded")), dict(told.detail.get("rules") or {})
        return None

    @property
    def is_before_claims(self) -> bool:
        """Whether what came from other registries still counted as made here."""
        return self.entry < self.chronicle.disowned

    def vouches(self, key_id: str) -> bool:
        """Return whether a key counted for fused artifacts of other registries."""
        told = _newest(self.chronicle.keys.get(key_id, ()), self.entry)
        return told is not None and told.action == "key.trusted" and bool(told.detail.get("fused"))

    def patterns(self, key_id: str) -> list[str]:
        """Return for which aliases a key counted; none where it was not trusted, or revoked."""
        told = _newest(self.chronicle.keys.get(key_id, ()), self.entry)
        if told is None or told.action != "key.trusted":
            return []
        return [str(pattern) for pattern in told.detail.get("aliases") or ()]


def read_chronicle(session: Session) -> Chronicle:
    """Read the log.  What cannot be parsed is left out: the audit of the chain names it."""
    found = Chronicle()
    for row in _entries(session):
        for kind, number in _sealed(row.seals):
            found.written[kind, number].append(row.seq)
        if row.action == DISOWNED:
            found.disowned = row.seq
        if row.action not in (*RULES, *KEYS, "alias.moved"):
            continue
        told = Told(row.action, row.subject, _detail(row.detail))
        if row.action in RULES:
            found.rules[row.subject].append((row.seq, told))
        elif row.action in KEYS:
            found.keys[str(told.detail.get("key_id"))].append((row.seq, told))
        else:
            found.moves[row.seq] = told
    return found


def had_rules(session: Session) -> bool:
    """Return whether any alias ever had rules."""
    event = tables.Event
    query = select(event.seq).where(event.subject_kind == "alias", event.action == RULES[0]).limit(1)
    return session.scalar(query) is not None


def _entries(session: Session) -> Iterator[Any]:
    event, seq = tables.Event, 0
    told = event.action.in_((*RULES, *KEYS, DISOWNED, "alias.moved"))
    query = (
        select(event.seq, event.action, event.subject, event.detail, event.seals)
        .where(or_(event.seals.is_not(None), told))
        .order_by(event.seq)
        .limit(_BATCH)
    )
    while rows := session.execute(query.where(event.seq > seq)).all():
        yield from rows
        seq = rows[-1].seq


def _sealed(text: str | None) -> Iterator[tuple[str, int]]:
    try:
        seals = json.loads(text or "[]")
        yield from ((str(kind), int(number)) for kind, number, *_ in seals if kind in _DATED)
    except (ValueError, TypeError):
        return


def _detail(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _newest(entries: Any, until: int) -> Told | None:
    return next((told for seq, told in reversed(entries) if seq <= until), None)
