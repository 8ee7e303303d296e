"""The triggers that keep the log append-only: whether they are there, and doing without them in an empty registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

GUARDS = {
    "sqlite": frozenset({"event_no_update", "event_no_delete", "event_no_replace"}),
    "postgresql": frozenset({"event_no_update", "event_no_delete", "event_no_truncate", "event_no_forgery"}),
}
"""Names of the triggers on `event`, by dialect (migrations 0007 and 0012 make them)."""

MOVE_ALIAS = "move_alias(integer, text, integer, text, text, boolean, timestamptz)"
"""The function that moves aliases on PostgreSQL, with its owner's rights (migration 0012)."""

FUNCTIONS = ("refuse_event_change()", "refuse_forged_event()", MOVE_ALIAS)
"""Functions on PostgreSQL; who alters tables has to own them, too."""

_QUERIES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'",
    # 'D' is a disabled one (pg_trigger.tgenabled); `current_schema` keeps other schemas' tables of the name out.
    "postgresql": (
        "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = 'event' AND n.nspname = current_schema() AND NOT t.tgisinternal AND t.tgenabled <> 'D'"
    ),
}


def missing_guards(session: Session) -> list[str]:
    """Return the names of triggers that are not there, or are switched off."""
    dialect = session.get_bind().dialect.name
    found = set(session.scalars(text(_QUERIES[dialect])))
    return sorted(GUARDS[dialect] - found)


@contextmanager
def lifted(connection: Connection) -> Iterator[None]:
    """Do without the triggers for a while, in the caller's schema change: only for the log of a registry that is empty."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE event DISABLE TRIGGER USER"))
        yield
        connection.execute(text("ALTER TABLE event ENABLE TRIGGER USER"))
        return
    query = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'")
    triggers = connection.execute(query).all()
    for name, _ in triggers:
        connection.execute(text(f"DROP TRIGGER {name}"))
    yield
    for _, statement in triggers:
        connection.execute(text(statement))
