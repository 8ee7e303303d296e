"""Changing a log as somebody would who has all rights and leaves no other trace.  Import it as `import tampering`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from fusery.registry.database.guards import lifted


@contextmanager
def unguarded(session: Session) -> Iterator[None]:
    """Take the triggers of the log away, and put them back afterwards."""
    with lifted(session.connection()):
        yield
        session.flush()
