"""Guards: triggers by which the database itself refuses to change the log, and on SQLite values that are misspelled.

Migration 0007 makes the first ones of the log.  Those of spellings follow from the tables, on SQLite, and are put on wherever a
schema has come to be this program's (`migrations.env`): a new column is guarded without anybody thinking of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Table, text

from .. import tables
from .functions import FUNCTIONS, REFUSAL, signature
from .spelling import forms

_LOG = {
    "sqlite": {
        "event_no_update": "BEFORE UPDATE ON event",
        "event_no_delete": "BEFORE DELETE ON event",
        "event_no_replace": "BEFORE INSERT ON event WHEN EXISTS "
        "(SELECT 1 FROM event WHERE seq = NEW.seq OR hash = NEW.hash)",
    },
    "postgresql": {
        "event_no_update": "BEFORE UPDATE ON event FOR EACH ROW",
        "event_no_delete": "BEFORE DELETE ON event FOR EACH ROW",
        "event_no_truncate": "BEFORE TRUNCATE ON event FOR EACH STATEMENT",
    },
}
_ACTION = {
    "sqlite": f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END",
    "postgresql": "EXECUTE FUNCTION refuse_event_change()",
}
_FORGERY = "BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION refuse_forged_event()"


@dataclass(frozen=True, slots=True)
class Guard:
    """A trigger of ours.

    Attributes:
        name: of the trigger.
        table: that it is on.
        definition: the statement that makes it, as the database tells it again.
    """

    name: str
    table: str
    definition: str


@cache
def guards_of(dialect: str) -> Mapping[str, Guard]:
    """Return the triggers that a database of this kind has to have, by name."""
    found = [
        Guard(name, "event", f"CREATE TRIGGER {name} {when} {_ACTION[dialect]}")
        for name, when in _LOG[dialect].items()
    ]
    if dialect == "postgresql":
        found.append(Guard("event_no_forgery", "event", f"CREATE TRIGGER event_no_forgery {_FORGERY}"))
    if dialect == "sqlite":
        found += [guard for table in tables.metadata.sorted_tables for guard in _spelling(table)]
    return {guard.name: guard for guard in found}


def log_guards(dialect: str) -> frozenset[str]:
    """Return the names of what migrations make to guard the log: triggers, and on PostgreSQL what they call."""
    return frozenset(_LOG[dialect]) | ({"refuse_event_change"} if dialect == "postgresql" else set())


def _spelling(table: Table) -> Iterator[Guard]:
    said = " AND ".join(forms(table))
    refusal = f"{table.name} is given a value that is not spelled as fusery spells it"
    for change in ("INSERT", "UPDATE") if said else ():
        name = f"{table.name}_spelling_{change.lower()}"
        definition = (
            f"CREATE TRIGGER {name} BEFORE {change} ON {table.name} WHEN ({said}) IS NOT TRUE "
            f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        )
        yield Guard(name, table.name, definition)


def take_off(connection: Connection) -> None:
    """Drop the guards that no migration makes, and that are in the way of one; `protection.mend` makes them anew."""
    if connection.dialect.name == "sqlite":
        for name in guards_of("sqlite"):
            if name not in _LOG["sqlite"]:
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
    elif connection.scalar(text("SELECT to_regclass('event')")) is not None:
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS event_no_forgery ON event")
        for name in FUNCTIONS.keys() - {"refuse_event_change"}:
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {signature(name)}")


@contextmanager
def lifted(connection: Connection) -> Iterator[None]:
    """Do without the triggers of the log for a while, in the caller's schema change: only where a registry is empty."""
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
        connection.exec_driver_sql(statement)
