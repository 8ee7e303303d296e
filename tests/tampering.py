"""Changing a log as somebody would who has all rights and leaves no other trace.  Import it as `import tampering`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.orm import Session

_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'"


@contextmanager
def unguarded(session: Session) -> Iterator[None]:
    """Take the triggers of the log away, and put them back afterwards."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("ALTER TABLE event DISABLE TRIGGER USER"))
        yield
        session.flush()
        session.execute(text("ALTER TABLE event ENABLE TRIGGER USER"))
        return
    triggers = session.execute(text(_TRIGGERS)).all()
    for name, _ in triggers:
        session.execute(text(f"DROP TRIGGER {name}"))
    yield
    session.flush()
    for _, statement in triggers:
        session.execute(text(statement))
