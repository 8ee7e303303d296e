"""Bringing a database's schema up to date, and sealing what was recorded before there were seals."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from . import events
from .audit.records import unsealed
from .database import Database, log, schema

if TYPE_CHECKING:
    from .workspace import Workspace

SEALED_SINCE = "0008"
"""The revision from which on every write seals what it writes."""


def upgrade(workspace: Workspace) -> tuple[str | None, str | None]:
    """Bring the schema to the newest revision; return the revisions before and after.

    Raises:
        SchemaError: the database is newer, or not fusery's; nothing was written.
        DatabaseUnavailableError: the database does not answer, or another process is writing for too long.
    """
    with closing(Database.open(workspace.settings.database)) as database:
        before = schema.upgrade(database, afterwards=partial(seal_older, actor=workspace.actor))
        return before.current, schema.state(database).current


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
