"""The append-only log: one entry for everything that changed, each bound to the one before by a hash.

The hash covers the canonical JSON (`storage.digest.canonical_json`: sorted keys, no spaces, ASCII) of one
object with the keys

    action, actor, at, detail, previous, seals, seq, subject, subject_kind

where `seq` is a number and everything else a string: `at` is the moment in UTC as `YYYY-MM-DDTHH:MM:SS.ffffff+00:00`,
`detail` and `seals` the entry's texts as they are stored (themselves canonical JSON; without seals there is no such
key), and `previous` the hash of the entry with `seq - 1`,
64 zeros for the first.  The hash is the SHA-256 of those bytes, in hex.

So an entry that is changed, removed from the middle or put in shows up at once.  A log whose end was cut off, or that
was replaced as a whole, shows up only against a hash that was noted down elsewhere: `last` gives it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import canonical_json, digest_json, is_digest
from fusery.storage.secrets import without_credentials

from ..tables import EventRow
from . import engine
from .engine import BATCH
from .sealing import KINDS, Seal, seals_of

FIRST_PREVIOUS = "0" * 64
_WAITING = "entries of the log"
ACTOR = "actor"  # key of the information about a session that says under which name changes are logged


def record(
    session: Session,
    action: str,
    kind: str,
    subject: str,
    detail: Mapping[str, Any],
    *,
    actor: str | None = None,
    at: datetime | None = None,
) -> EventRow:
    """Append an entry in the transaction of the change, by default by the database's actor and clock."""
    if action not in ACTIONS:
        raise ValueError(f"the action {action!r} is not declared in `fusery.registry.database.events`")
    entry = EventRow(
        at=(at or engine.utcnow(session)).astimezone(UTC),
        actor=session.info[ACTOR] if actor is None else actor,
        action=action,
        subject_kind=kind,
        subject=subject,
        detail=canonical_json(without_credentials(detail)).decode("ascii"),
    )
    # `conclude` writes it: only at the end is it known what the transaction has written.
    session.info.setdefault(_WAITING, []).append(entry)
    return entry


def conclude(session: Session) -> None:
    """Write the entries that wait, with the seals of what was written in the last of them; then it can be committed."""
    seals = seals_of(session)
    if seals and not session.info.get(_WAITING):
        record(session, "records.changed", "registry", "records", {})
    waiting: list[EventRow] = session.info.pop(_WAITING, [])
    if not waiting:
        return
    waiting[-1].seals = seals_text(seals) if seals else None
    newest = last(session)
    seq, previous = (newest.seq, newest.hash) if newest else (0, FIRST_PREVIOUS)
    for entry in waiting:
        seq += 1
        entry.seq, entry.previous = seq, previous
        entry.hash = previous = event_hash(entry)
        session.add(entry)
    session.flush()


def last(session: Session) -> EventRow | None:
    """Return the newest entry: its hash stands for the whole log."""
    return session.scalars(select(EventRow).order_by(EventRow.seq.desc()).limit(1)).first()


def event_hash(event: EventRow) -> str:
    """Return the hash that an entry should have."""
    return digest_json(_hashed(event))


def _hashed(event: EventRow) -> Mapping[str, Any]:
    names = ["seq", "at", "actor", "action", "subject_kind", "subject", "detail", "previous"]
    names += ["seals"] if event.seals is not None else []
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return {**{name: getattr(event, name) for name in names}, "at": at}


def entry_values(event: EventRow) -> Mapping[str, Any]:
    """Return an entry as it travels: what its hash covers, and the hash."""
    return {**_hashed(event), "hash": event.hash}


def is_entry_of(values: Mapping[str, Any], kind: str, subject: str) -> bool:
    """Return whether an entry that travelled is about a record, and has the hash that it should have."""
    hashed = {key: value for key, value in values.items() if key != "hash"}
    is_about = (values.get("subject_kind"), values.get("subject")) == (kind, subject)
    return is_about and digest_json(hashed) == values.get("hash")


def parse_seals(text: str) -> list[Seal]:
    """Return the seals of an entry from its text."""
    try:
        seals = [Seal(*fields) for fields in json.loads(text)]
        good = len({seal.key for seal in seals}) == len(seals) and all(
            seal.kind in KINDS
            and isinstance(seal.name, str)
            and type(seal.number) is int
            and seal.number > 0
            and (seal.digest is None or is_digest(seal.digest))
            for seal in seals
        )
        if good and seals_text(seals) == text:
            return seals
    except (TypeError, RecursionError) as error:
        raise ValueError("invalid seals") from error
    raise ValueError("seals that fusery does not write")


def seals_text(seals: Sequence[Seal]) -> str:
    """Return the text of an entry's seals: canonical JSON, a list of `[kind, number, name, digest]`."""
    rows = [[seal.kind, seal.number, seal.name, seal.digest] for seal in seals]
    return canonical_json(rows).decode("ascii")


def verify_chain(session: Session) -> Iterator[tuple[int, str]]:
    """Yield the numbers of wrong entries of the log, and what is wrong, in memory that does not grow with it."""
    seq, previous = 0, FIRST_PREVIOUS
    for number, event in _all(session):
        if event is None:
            yield number, f"entry {number} is not readable: its time is invalid"
            continue
        if event.seq != seq + 1:
            yield event.seq, f"the log jumps from entry {seq} to entry {event.seq}"
        elif event.previous != previous:
            yield event.seq, f"entry {event.seq} does not follow from entry {seq}"
        if not _is_as_written(event):
            yield event.seq, f"entry {event.seq} was changed after it was written"
        elif not _is_well_spelled(event):
            yield event.seq, f"entry {event.seq} has details or seals that fusery does not write so"
        seq, previous = event.seq, event.hash


def _is_as_written(event: EventRow) -> bool:
    try:
        return event.hash == event_hash(event)
    except TypeError:  # SQLite keeps bytes where somebody put them instead of a text
        return False


def _is_well_spelled(event: EventRow) -> bool:
    try:
        if event.seals is not None:
            parse_seals(event.seals)
        return canonical_json(json.loads(event.detail)).decode("ascii") == event.detail
    except (ValueError, RecursionError):
        return False


def history(
    session: Session,
    *,
    kind: str | None = None,
    subject: str | None = None,
    action: str | None = None,
    limit: int | None = None,
) -> list[EventRow]:
    """Return entries, oldest first; with a limit, the newest ones."""
    query = select(EventRow).order_by(EventRow.seq.desc()).limit(limit)
    wanted = {EventRow.subject_kind: kind, EventRow.subject: subject, EventRow.action: action}
    query = query.where(*(column == value for column, value in wanted.items() if value is not None))
    return list(reversed(session.scalars(query).all()))


def _all(session: Session) -> Iterator[tuple[int, EventRow | None]]:
    """Yield every entry by its number, and let go of each; None where the time is invalid."""
    query, seq = select(EventRow).execution_options(populate_existing=True), 0
    following = select(EventRow.seq).order_by(EventRow.seq).limit(BATCH)
    while numbers := session.scalars(following.where(EventRow.seq > seq)).all():
        try:
            events = {event.seq: event for event in session.scalars(query.where(EventRow.seq.in_(numbers)))}
        except ValueError:
            events = {}
            for number in numbers:
                with suppress(ValueError):
                    events[number] = session.scalars(query.where(EventRow.seq == number)).one()
        yield from ((number, events.get(number)) for number in numbers)
        seq = numbers[-1]


ACTIONS: Mapping[str, str] = {
    "adapter.amended": "what was said about it was corrected",
    "adapter.approved": "somebody approved of an alias holding it",
    "adapter.benched": "its forms were timed on this machine",
    "adapter.evaluated": "what was measured of it was recorded",
    "adapter.evaluation_withdrawn": "what was recorded wrongly as measured of it was withdrawn",
    "adapter.exported": "it was written to a folder",
    "adapter.received": "it came from another registry or a client",
    "adapter.registered": "it was registered",
    "adapter.signed": "it was signed",
    "adapter.unapproved": "an approval was taken back",
    "adapter.unyanked": "its withdrawal was lifted",
    "adapter.yanked": "it was withdrawn",
    "alias.confirmed": "its holder was judged once more, because of an amendment",
    "alias.moved": "it moved from one adapter to another, or to none",
    "alias.refused": "it was not moved, because rules of it were not fulfilled",
    "base.added": "it was added, or given another name or source",
    "base.calibrated": "a calibration of it was made",
    "base.calibration_chosen": "a calibration that was there is taken again, and not the newest",
    "base.recognised": "other files were found to hold the same",
    "base.received": "it came from another registry or a client",
    "base.related": "its weights are a form of another base model's",
    "blob.quarantined": "a damaged blob was put aside",
    "blob.repaired": "a damaged blob was replaced by a good one",
    "bundle.signed": "it was signed",
    "bundle.written": "it was written",
    "calibration.received": "it came from another registry or a client",
    "deployment.ended": "nothing, or something else, runs at the place now",
    "deployment.recorded": "something runs at the place",
    "deployment.refused": "something was asked for at the place, and was not let run there",
    "fuse.fitted": "what fits into a budget was worked out",
    "fuse.refused": "it was measured and not published",
    "fuse.tried": "`auto` measured this format and took another",
    "fused.answered": "the answers of a model whose weights do not decide; 0 prompts: not asked",
    "fused.confirmed": "another registry's claim was true: the same bytes came out here",
    "fused.made": "it was made",
    "fused.published": "its files went to the store",
    "fused.received": "it came from another registry or a client",
    "fused.refuted": "another registry's claim was false: other bytes came out here",
    "fused.repaired": "a damaged copy in a cache was made again",
    "fused.signed": "it was signed",
    "key.revoked": "its signatures count no more",
    "key.trusted": "its signatures count for some aliases",
    "records.changed": "unattributed change of records",
    "registry.indexed": "tensors were indexed for `identify`",
    "registry.made": "the registry was made",
    "rules.removed": "an alias has its rules no more",
    "rules.set": "an alias has these rules",
    "store.collected": "what nothing refers to was removed from the store",
    "token.created": "a server takes it until it expires or is revoked",
    "token.revoked": "no server takes it any more",
    "webhook.added": "events are sent to it",
    "webhook.disabled": "its receiver said that it is gone, and nothing is sent to it any more",
    "webhook.enabled": "events are sent to it again",
    "webhook.removed": "nothing is sent to it any more",
    "webhook.skipped": "an entry that it did not take was passed over",
}
"""A new action is a new line here: `events.record` takes no other, and `events --action` knows no other."""
