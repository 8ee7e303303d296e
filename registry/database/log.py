"""The end of a write transaction: its entries of the log, numbered and chained, and the seals of what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import canonical_json, digest_json

from ..tables import Event
from .clock import utcnow
from .sealing import KINDS, Seal, seals_of

FIRST_PREVIOUS = "0" * 64
CHANGED = "records.changed"
"""The action of an entry that only says which records changed."""

_WAITING = "entries of the log"
_DIGEST = re.compile("[0-9a-f]{64}")


def append(session: Session, entry: Event) -> None:
    """Have an entry written when the transaction ends: only then is it known what the transaction has written."""
    session.info.setdefault(_WAITING, []).append(entry)


def conclude(session: Session, actor: str) -> None:
    """Write the entries that wait, and the seals of what was written into the last of them; then it can be committed."""
    seals = seals_of(session)
    if seals and not session.info.get(_WAITING):
        append(session, _plain(session, actor))
    write(session, seals)


def write(session: Session, seals: Sequence[Seal]) -> None:
    """Write the entries that wait, with seals in the last of them."""
    waiting: list[Event] = session.info.pop(_WAITING, [])
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


def _plain(session: Session, actor: str) -> Event:
    return Event(
        at=utcnow(session),
        actor=actor,
        action=CHANGED,
        subject_kind="registry",
        subject="records",
        detail="{}",
    )


def last(session: Session) -> Event | None:
    """Return the newest entry: its hash stands for the whole log."""
    return session.scalars(select(Event).order_by(Event.seq.desc()).limit(1)).first()


def event_hash(event: Event) -> str:
    """Return the hash that an entry should have."""
    content: dict[str, Any] = {
        "seq": event.seq,
        "at": event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": event.actor,
        "action": event.action,
        "subject_kind": event.subject_kind,
        "subject": event.subject,
        "detail": event.detail,
        "previous": event.previous,
    }
    if event.seals is not None:
        content["seals"] = event.seals
    return digest_json(content)


def parse_seals(text: str) -> list[Seal]:
    """Return the seals of an entry from its text.

    Raises:
        ValueError: it is not what `seals_text` writes, or seals something twice: whoever reads it otherwise could be made
            to read something else than the others do.
    """
    try:
        found = [Seal(*each) for each in json.loads(text)]
        good = all(_is_seal(seal) for seal in found) and len({seal.key for seal in found}) == len(found)
        if good and seals_text(found) == text:
            return found
    except (TypeError, RecursionError) as error:
        raise ValueError("seals that are none") from error
    raise ValueError("seals that fusery does not write")


def _is_seal(seal: Seal) -> bool:
    return (
        isinstance(seal.kind, str)
        and seal.kind in KINDS
        and type(seal.number) is int
        and seal.number > 0
        and isinstance(seal.name, str)
        and (
            seal.digest is None
            or (isinstance(seal.digest, str) and _DIGEST.fullmatch(seal.digest) is not None)
        )
    )


def seals_text(seals: Sequence[Seal]) -> str:
    """Return the text of an entry's seals: canonical JSON, a list of `[kind, number, name, digest]`."""
    return canonical_json([[seal.kind, seal.number, seal.name, seal.digest] for seal in seals]).decode(
        "ascii"
    )
