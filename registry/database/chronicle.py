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
from .log import parse_seals
from .sealing import Seal

_BATCH = 500
_KEPT = frozenset(
    {
        "alias",
        "alias_move",
        "alias_rule",
        "amendment",
        "approval",
        "evaluation",
        "fused",
        "signature",
        "task",
        "trusted_key",
        "yank",
    }
)
"""Kinds of records whose seals are noted: those that rules ask for, and aliases and their moves."""

RULES = ("rules.set", "rules.removed")
KEYS = ("key.trusted", "key.revoked")
MOVED, CONFIRMED = "alias.moved", "alias.confirmed"
DISOWNED, ADOPTED = "fused.disowned", "registry.adopted"
_TOLD = (*RULES, *KEYS, MOVED, CONFIRMED, DISOWNED, ADOPTED)


@dataclass(frozen=True, slots=True)
class Told:
    """An entry of the log, as far as it is needed here.

    Attributes:
        action: what was done.
        kind: to what kind of thing.
        subject: to which.
        detail: more.
        at: when, as it says.
        seals: the records that its transaction wrote, if it is the transaction's last one.
    """

    action: str
    kind: str
    subject: str
    detail: Mapping[str, Any]
    at: datetime
    seals: frozenset[tuple[str, int]]


@dataclass(slots=True)
class Chronicle:
    """The log, read once from its beginning.

    Attributes:
        written: of each record, by kind and row number, the entries with a seal of it and its digest, in order.
        rules: of each alias, `task#alias` or `*#alias`, the entries in which its rules changed.
        keys: of each key's id, the entries in which what it counts for changed.
        moves: the entries that tell of a move of an alias.
        confirmed: the entries that say that an alias's holder was judged once more.
        removed: records of which an entry says that they are gone, by kind and row number; rules of aliases aside, and webhooks that
            were removed.
        claims: the entries by which an upgrade or a restore told what others had claimed from what was made here.
    """

    written: dict[tuple[str, int], list[tuple[int, str | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    rules: dict[str, list[tuple[int, Told]]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[str, list[tuple[int, Told]]] = field(default_factory=lambda: defaultdict(list))
    moves: dict[int, Told] = field(default_factory=dict)
    confirmed: dict[int, Told] = field(default_factory=dict)
    removed: dict[tuple[str, int], int] = field(default_factory=dict)
    claims: set[int] = field(default_factory=set)

    def at(self, entry: int) -> Moment:
        """Return the moment in which an entry was written."""
        return Moment(self, entry)

    def first(self, kind: str, number: int) -> int | None:
        """Return the entry in which a record was first written, None where the log knows none."""
        return next((seq for seq, digest in self.written.get((kind, number), ()) if digest is not None), None)

    def last_change(self, kind: str, number: int) -> int:
        """Return the entry since which a record is what it is now: sealed once more, it has not changed."""
        seals = self.written[kind, number]
        return next(seq for seq, digest in seals if digest == seals[-1][1])


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
        first = self.chronicle.first(kind, number)
        return first is not None and first <= self.entry

    def stands(self, kind: str, number: int, ended: datetime | None) -> bool:
        """Return whether a record was there by then and had not been taken back, which is its last change."""
        if not self.has(kind, number):
            return False
        return ended is None or self.chronicle.last_change(kind, number) > self.entry

    def rule(self, task: str, alias: str) -> tuple[bool, Mapping[str, Any]] | None:
        """Return whether an alias was guarded and by which rules, None where it had none."""
        for subject in (f"{task}#{alias}", f"*#{alias}"):
            told = _newest(self.chronicle.rules.get(subject, ()), self.entry)
            if told is not None and told.action == "rules.set":
                return bool(told.detail.get("guarded")), dict(told.detail.get("rules") or {})
        return None

    def is_before_claim(self, fused: int) -> bool:
        """Return whether a fused artifact of others still counted as made here: it became a claim later."""
        change = self.chronicle.last_change("fused", fused) if self.has("fused", fused) else 0
        return change > self.entry and change in self.chronicle.claims

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
        seals = _sealed(row.seals)
        for seal in seals:
            if seal.digest is None and not _may_remove(row.action, seal.kind):
                found.removed.setdefault(seal.key, row.seq)
            if seal.kind in _KEPT:
                found.written[seal.key].append((row.seq, seal.digest))
        if row.action in _TOLD:
            keys = frozenset(seal.key for seal in seals)
            told = Told(row.action, row.subject_kind, row.subject, _detail(row.detail), row.at, keys)
            _note(found, row.seq, told)
    return found


def _note(found: Chronicle, seq: int, told: Told) -> None:
    match told.action, told.kind:
        case (("rules.set" | "rules.removed"), "alias"):
            found.rules[told.subject].append((seq, told))
        case (("key.trusted" | "key.revoked"), "key"):
            found.keys[str(told.detail.get("key_id"))].append((seq, told))
        case "alias.moved", "alias":
            found.moves[seq] = told
        case "alias.confirmed", "alias":
            found.confirmed[seq] = told
        case (("fused.disowned" | "registry.adopted"), _):
            found.claims.add(seq)
            if told.action == ADOPTED:  # from here on no key counts that is not trusted anew
                for entries in found.keys.values():
                    entries.append((seq, told))


def _entries(session: Session) -> Iterator[Any]:
    event, seq = tables.Event, 0
    query = (
        select(
            event.seq, event.action, event.subject_kind, event.subject, event.detail, event.at, event.seals
        )
        .where(or_(event.seals.is_not(None), event.action.in_(_TOLD)))
        .order_by(event.seq)
        .limit(_BATCH)
    )
    while rows := session.execute(query.where(event.seq > seq)).all():
        yield from rows
        seq = rows[-1].seq


def _may_remove(action: str, kind: str) -> bool:
    return kind == "alias_rule" or (action, kind) == ("webhook.removed", "webhook")


def _sealed(text: str | None) -> list[Seal]:
    try:
        return parse_seals(text) if text is not None else []
    except ValueError:
        return []


def _detail(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _newest(entries: Any, until: int) -> Told | None:
    return next((told for seq, told in reversed(entries) if seq <= until), None)
