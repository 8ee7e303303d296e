"""Bringing a database's schema up to date, and sealing what was recorded before there were seals."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from ..database import Database, events, log, schema
from ..database.sealing import KINDS, seal_rows
from ..fusion.foreign import disown
from ..fusion.records import find_fused
from ..record import Record
from .records import unsealed

if TYPE_CHECKING:
    from ..workspace import Workspace

SEALED_SINCE = "0008"
"""The revision from which on every write seals what it writes."""

CLAIMS_SINCE = "0010"
"""The revision from which on what another registry says it has made is known as such."""


@dataclass(frozen=True, slots=True)
class Upgraded(Record):
    """What an upgrade has done.

    Attributes:
        before: the revision that the database had, None if there was none.
        after: the one that it has.
    """

    before: str | None
    after: str | None


def upgrade(workspace: Workspace) -> Upgraded:
    """Bring the schema to the newest revision.

    Raises:
        SchemaError: the database is newer, or not fusery's; nothing was written.
        DatabaseUnavailableError: the database does not answer, or another process is writing for too long.
    """
    with closing(Database.open(workspace.settings.database)) as database:
        before = schema.upgrade(database, afterwards=partial(bring_up, actor=workspace.actor))
        return Upgraded(before.current, schema.state(database).current)


def bring_up(session: Session, since: str | None, *, actor: str) -> None:
    """Do what a newer revision needs beyond its schema: seal records, and tell claims from what was made here.

    Args:
        session: of the only writer.
        since: the revision that the database had; None for a new one.
        actor: who upgrades.
    """
    seal_older(session, since, actor=actor)
    disown_received(session, since, actor=actor)


def disown_received(session: Session, since: str | None, *, actor: str) -> None:
    """Make claims of the fused artifacts that the log says came from another registry, and of which it says nothing else.

    Args:
        session: of the only writer.
        since: the revision that the database had; None for a new one.
        actor: who upgrades.
    """
    if since is None or since >= CLAIMS_SINCE:
        return
    disowned = []
    for event in events.history(session, kind="fused", action="fused.received"):
        detail = json.loads(event.detail)
        row = find_fused(session, Digest(event.subject))
        if row is not None and "record" in detail["added"]:
            disown(row, str(detail["origin"]["registry"]))
            disowned.append(row.id)
    if not disowned:
        return
    session.flush()
    events.record(
        session,
        action="fused.disowned",
        kind="registry",
        subject="fused",
        detail={"since": since, "fused": len(disowned)},
        actor=actor,
    )
    log.write(session, seal_rows(session, KINDS["fused"], disowned))


def seal_older(session: Session, since: str | None, *, actor: str) -> None:
    """Seal the records of a database that comes from a revision without seals, as they are now.

    What happened to them before is not vouched for: the entries of the log say from when on they are.

    Args:
        session: of the only writer.
        since: the revision that the database had; None for a new one.
        actor: who upgrades.
    """
    if since is None or since >= SEALED_SINCE:
        return
    for seals in unsealed(session):
        events.record(
            session,
            action="records.sealed",
            kind="registry",
            subject="records",
            detail={"since": since},
            actor=actor,
        )
        log.write(session, seals)
