"""What protects the tables is compared with what the program makes: no name stands for what it should do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from fusery.registry import Registry
from fusery.registry.audit.upgrade import upgrade
from fusery.registry.database import Database, events, schema
from fusery.registry.database.functions import FUNCTIONS
from fusery.registry.database.protection import weaknesses

LOG = "log_unprotected"
OTHER = "table_unprotected"
FOREIGN = "table_intercepted"

REFUSES = "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"


def sqlite_trigger(name: str, rest: str) -> str:
    return f"DROP TRIGGER {name}; CREATE TRIGGER {name} {rest}"


UPDATE, DELETE = "trigger event_no_update", "trigger event_no_delete"
SQLITE = [
    ("DROP TRIGGER event_no_update", LOG, UPDATE),
    (sqlite_trigger("event_no_delete", f"BEFORE DELETE ON event WHEN 0 {REFUSES}"), LOG, DELETE),
    (sqlite_trigger("event_no_update", f"BEFORE UPDATE ON intent {REFUSES}"), LOG, UPDATE),
    (
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'BEFORE UPDATE', 'AFTER UPDATE')",
        LOG,
        UPDATE,
    ),
    ("DROP TRIGGER alias_move_spelling_update", OTHER, "trigger alias_move_spelling_update"),
    (
        "CREATE TRIGGER helpful AFTER INSERT ON adapter BEGIN UPDATE alias SET adapter_id = NEW.id; END",
        FOREIGN,
        "table adapter",
    ),
]
BODY = FUNCTIONS["refuse_event_change"].body
FUNCTION = "CREATE OR REPLACE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql"
LET_THROUGH = (
    "CREATE FUNCTION let_through() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$; "
    "CREATE SCHEMA elsewhere; "
    f"CREATE FUNCTION elsewhere.refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $${BODY}$$; "
)
EVE = (
    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fusery_eve') THEN CREATE ROLE fusery_eve; "
    "END IF; END $$; GRANT CREATE ON SCHEMA public TO fusery_eve; "
)


def trigger(rest: str, function: str = "refuse_event_change", when: str = "") -> str:
    head = f"CREATE OR REPLACE TRIGGER event_no_update {rest} FOR EACH ROW"
    return f"{head} {when} EXECUTE FUNCTION {function}()"


POSTGRESQL = [
    ("DROP TRIGGER event_no_update ON event", LOG, UPDATE),
    ("ALTER TABLE event DISABLE TRIGGER event_no_update", LOG, UPDATE),
    ("ALTER TABLE event ENABLE REPLICA TRIGGER event_no_update", LOG, UPDATE),
    (trigger("BEFORE UPDATE ON event", when="WHEN (false)"), LOG, UPDATE),
    (trigger("BEFORE UPDATE OF seq ON event"), LOG, UPDATE),
    (LET_THROUGH + trigger("BEFORE UPDATE ON event", "elsewhere.refuse_event_change"), LOG, UPDATE),
    (f"{FUNCTION} AS $$BEGIN RETURN NEW; END$$", LOG, "function refuse_event_change"),
    (f"{FUNCTION} SECURITY DEFINER AS $${BODY}$$", LOG, "function refuse_event_change"),
    (f"{FUNCTION} SET search_path = elsewhere AS $${BODY}$$", LOG, "function refuse_event_change"),
    (
        EVE + "ALTER FUNCTION refuse_event_change() OWNER TO fusery_eve",
        LOG,
        "function refuse_event_change",
    ),
    (
        LET_THROUGH
        + "CREATE TRIGGER helpful BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION let_through()",
        FOREIGN,
        "table event",
    ),
    ("CREATE RULE quiet AS ON INSERT TO yank DO INSTEAD NOTHING", FOREIGN, "table yank"),
    (
        "ALTER TABLE adapter ENABLE ROW LEVEL SECURITY; CREATE POLICY chosen ON adapter USING (id < 3)",
        FOREIGN,
        "table adapter",
    ),
    ("CREATE TABLE more () INHERITS (alias_move)", FOREIGN, "table alias_move"),
    ("ALTER TABLE alias_move DISABLE TRIGGER ALL", OTHER, "table alias_move"),
]


def found(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        return [(one.code, one.subject) for one in weaknesses(session.connection())]


def test_nothing_is_found_where_nothing_was_done(database: Database) -> None:
    assert found(database) == []
    assert schema.check(database) == []


@pytest.fixture
def embedded(sqlite_url: str) -> Iterator[Database]:
    database = Database.open(sqlite_url)
    yield database
    database.close()


@pytest.fixture
def served(postgres_url: str) -> Iterator[Database]:
    database = Database.open(postgres_url)
    yield database
    database.close()


@pytest.mark.parametrize(("statements", "code", "subject"), SQLITE)
def test_a_hollow_guard_on_sqlite(embedded: Database, statements: str, code: str, subject: str) -> None:
    with closing(sqlite3.connect(str(embedded.path))) as connection:
        connection.executescript(statements)
    assert (code, subject) in found(embedded)
    assert schema.check(embedded) != []


@pytest.mark.parametrize(("statements", "code", "subject"), POSTGRESQL)
def test_a_hollow_guard_on_postgresql(served: Database, statements: str, code: str, subject: str) -> None:
    with served.schema_change() as connection:
        connection.exec_driver_sql(statements)
        assert (code, subject) in [(one.code, one.subject) for one in weaknesses(connection)]
        connection.rollback()


def test_a_setting_that_switches_triggers_off(served: Database, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.execute("SELECT quote_ident(current_database())").fetchone()
        assert name is not None
        connection.execute(f"ALTER DATABASE {name[0]} SET session_replication_role = replica")  # type: ignore[call-overload]
        served.close()
        try:
            assert (LOG, "session_replication_role of every role") in found(served)
        finally:
            connection.execute(f"ALTER DATABASE {name[0]} RESET session_replication_role")  # type: ignore[call-overload]
    served.close()  # a setting counts from the next connection on
    assert found(served) == []


def hollowed(registry: Registry) -> None:
    with registry.workspace.database.write() as session:
        if registry.workspace.database.dialect == "sqlite":
            session.execute(text("DROP TRIGGER event_no_update"))
            session.execute(text("CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT 1; END"))
            session.execute(text("DROP TRIGGER alias_spelling_insert"))
        else:
            session.execute(text(f"{FUNCTION} AS $$BEGIN RETURN NEW; END$$"))
            session.execute(text("ALTER TABLE event ENABLE REPLICA TRIGGER event_no_delete"))


def test_the_chain_names_hollow_guards_and_an_upgrade_mends_them(stocked: Registry) -> None:
    database = stocked.workspace.database
    hollowed(stocked)
    with database.write() as session:
        session.execute(text("UPDATE event SET actor = actor"))  # nothing refuses it
    report = stocked.upkeep.audit_chain()
    assert {problem.code for problem in report.problems} <= {LOG, OTHER}
    assert len(report.problems) == 2
    done = upgrade(stocked.workspace)
    assert (done.before, done.after, len(done.mended)) == (schema.HEAD, schema.HEAD, 2)
    assert stocked.upkeep.audit_chain().problems == []
    with database.read() as session:
        entry = events.last(session)
        assert entry is not None and entry.action == "guards.mended"
        assert all(name in entry.detail for name in done.mended)
    for statement in ("UPDATE event SET actor = 'eve'", "DELETE FROM event"):
        with pytest.raises(DBAPIError), database.write() as session:
            session.execute(text(statement))
    assert upgrade(stocked.workspace).mended == ()


MISSPELLED = [
    "UPDATE alias_move SET at = '20261126T04:00:57'",
    "UPDATE alias_move SET at = substr(at, 1, 19)",
    "UPDATE adapter SET date = '20261126'",
    "UPDATE base_model SET written_by_mlx = 2",
    "UPDATE base_model SET bytes = 'many'",
    "UPDATE adapter SET val_loss = x'30'",
    "UPDATE adapter SET training = CAST(training AS BLOB)",
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_refuses_what_is_misspelled(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    for statement in MISSPELLED:
        with pytest.raises(IntegrityError), stocked.workspace.database.write() as session:
            session.connection().exec_driver_sql(statement)
