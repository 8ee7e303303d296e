"""Checking the history of records against the seals in the log.

An audit of the newest seals cannot find what was changed through the program itself, since it seals what it writes.  So
earlier seals are compared with the few changes that a record may undergo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_json

from .. import tables
from ..database.chronicle import ADOPTED, Chronicle, Told
from ..database.sealing import KINDS, contents_of
from ..records.guards import text_of

REWRITTEN = "record_rewritten"

_ENDED: Mapping[str, frozenset[str]] = {
    "alias_move": frozenset(),
    "amendment": frozenset(),
    "approval": frozenset({"withdrawn_at"}),
    "evaluation": frozenset({"withdrawn_at", "withdrawn_by", "withdrawn_reason"}),
    "fused": frozenset(),
    "signature": frozenset(),
    "task": frozenset(),
    "yank": frozenset({"lifted_at", "lifted_by"}),
}
"""Kinds of records that stay as they were written, and the columns that are set when one is taken back."""

Found = tuple[str, str]
"""What is not as it should be: its name, and a sentence."""


def check_histories(session: Session, chronicle: Chronicle) -> Iterator[Found]:
    """Yield records that were rewritten, removed or replaced, and rules that no entry explains."""
    for (kind, number), seq in sorted(chronicle.removed.items()):
        yield f"{kind} {number}", f"entry {seq} of the log removed it, and no command does that"
    for (kind, number), seals in sorted(chronicle.written.items()):
        known = list(dict.fromkeys(digest for _, digest in seals if digest is not None))
        if kind in _ENDED and len(known) > 1 and not _has_ended(session, chronicle, kind, number, known):
            seq = next(seq for seq, digest in seals if digest == known[1])
            yield f"{kind} {number}", f"entry {seq} of the log wrote it anew, and it never changes"
    yield from _rules(session, chronicle)
    yield from _keys(session, chronicle)


def _has_ended(session: Session, chronicle: Chronicle, kind: str, number: int, known: Sequence[str]) -> bool:
    """Return whether a record has only been taken back, or become a claim."""
    if kind == "fused":
        return len(known) == 2 and chronicle.last_change(kind, number) in chronicle.claims
    content = contents_of(session, KINDS[kind], [number]).get(number)
    if content is None or len(known) > 2:
        return False
    table = KINDS[kind].table.name
    [row] = content[table]
    before = {name: value for name, value in row.items() if name not in _ENDED[kind]}
    return digest_json({**content, table: [before]}) == known[0]


def check_alias(
    session: Session, chronicle: Chronicle, alias: tables.Alias, holders: Sequence[int | None]
) -> Iterator[Found]:
    """Yield problems of an alias that was another one, or held an adapter without a move.

    Args:
        session: of any transaction.
        chronicle: the log.
        alias: the row.
        holders: the adapters it held according to its moves, in order.
    """
    kind = KINDS["alias"]
    [row] = contents_of(session, kind, [alias.id])[alias.id][kind.table.name]
    rest = {name: value for name, value in row.items() if name != "adapter_id"}
    good = {
        digest_json({kind.table.name: [rest if one is None else {**rest, "adapter_id": one}]})
        for one in {None, *holders}
    }
    for seq, digest in chronicle.written.get(("alias", alias.id), ()):
        if digest not in good:
            yield (
                f"alias {alias.task.name}#{alias.name}",
                f"it was another alias in entry {seq}, or held what no move of it says",
            )
            return


def _rules(session: Session, chronicle: Chronicle) -> Iterator[Found]:
    rows = {text_of(row): row for row in session.scalars(select(tables.AliasRule))}
    for subject, entries in sorted(chronicle.rules.items()):
        yield from (
            (f"rules of {subject}", f"entry {seq} of the log tells of rules that were not written then")
            for seq, told in entries
            if not _wrote(told, "alias_rule")
        )
    for subject in sorted(rows.keys() | chronicle.rules.keys()):
        row, entries = rows.get(subject), chronicle.rules.get(subject, [])
        told = entries[-1][1] if entries else None
        stated = None if row is None else {"guarded": row.guarded, "rules": row.rules}
        newest = None
        if told is not None and told.action == "rules.set":
            newest = {"guarded": told.detail.get("guarded"), "rules": told.detail.get("rules")}
        if stated != newest:
            yield f"rules of {subject}", "they are not those that the newest entry of the log about them has"


def _keys(session: Session, chronicle: Chronicle) -> Iterator[Found]:
    for entries in chronicle.keys.values():
        yield from (
            (f"key {told.subject}", f"entry {seq} of the log tells of a key that was not written then")
            for seq, told in entries
            if not _wrote(told, "trusted_key")
        )
    for row in session.scalars(select(tables.TrustedKey).order_by(tables.TrustedKey.id)):
        entries = chronicle.keys.get(row.key_id, [])
        if _counts_for(row) != (_told(entries[-1][1]) if entries else None):
            yield f"key {row.name}", "it does not count for what the newest entry of the log about it has"


def _wrote(told: Told, kind: str) -> bool:
    return told.action == ADOPTED or any(name == kind for name, _ in told.seals)


def _counts_for(row: tables.TrustedKey) -> Any:
    return row.revoked_at is None and (sorted(row.aliases), bool(row.fused))


def _told(told: Told) -> Any:
    if told.action == "key.revoked":
        return False
    if told.action == ADOPTED:
        return ([], False)
    return (sorted(map(str, told.detail.get("aliases") or ())), bool(told.detail.get("fused")))
