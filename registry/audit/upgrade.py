"""Bringing a database's schema up to date, and sealing what was recorded before there were seals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from ..database import Database, events, log, schema
from ..database.guards import log_guards
from ..database.protection import damaged, mend
from ..database.sealing import KINDS, seal_rows
from ..fusion.foreign import disown
from ..fusion.records import find_fused
from ..record import Record
from .records import unsealed

if TYPE_CHECKING:
    from ..workspace import Workspace

SEALED_SINCE = "0008"
"""The revision from which on every write seals what it writes."""

GUARDED_SINCE = "0007"
"""The revision from which on the log is guarded by triggers."""
CLAIMS_SINCE = "0010"
"""The revision from which on what another registry says it has made is known as such."""


@dataclass(frozen=True, slots=True)
class Upgraded(Record):
    """What an upgrade has done.

    Attributes:
        before: the revision that the database had, None if there was none.
        after: the one that it has.
        mended: triggers and functions that guard its tables and were gone, or were not what they should be.
    """

    before: str | None
    after: str | None
    mended: tuple[str, ...] = ()


def upgrade(workspace: Workspace) -> Upgraded:
    """Bring the schema to the newest revision, and make anew what no longer guards its tables.

    Raises:
        SchemaError: the database is newer, or not fusery's; nothing was written.
        DatabaseUnavailableError: the database does not answer, or another process is writing for too long.
    """
    with closing(Database.open(workspace.settings.database)) as database:
        broken = _broken_guards(database, schema.state(database))
        before = schema.upgrade(database, afterwards=partial(bring_up, actor=workspace.actor))
        if broken:
            _mend(database, broken, workspace.actor)
        return Upgraded(before.current, schema.state(database).current, tuple(broken))


def _broken_guards(database: Database, found: schema.SchemaState) -> list[str]:
    """Return the guards that are none; an older revision is to have only those of the log."""
    if found.status not in ("older", "current") or str(found.current) < GUARDED_SINCE:
        return []
    with database.read() as session:
        broken = damaged(session.connection())
    if found.status == "current":
        return broken
    of_log = log_guards(database.dialect)
    return [name for name in broken if name in of_log]


def _mend(database: Database, broken: Sequence[str], actor: str) -> None:
    """Make guards anew; the log keeps that they were none, since nobody knows what was changed without them."""
    with database.schema_change() as connection:
        mend(connection)
        with Session(bind=connection) as session:
            events.record(
                session,
                action="guards.mended",
                kind="registry",
                subject="guards",
                detail={"mended": list(broken)},
                actor=actor,
            )
            log.write(session, ())


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
