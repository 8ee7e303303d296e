"""What an upgrade does to records of before: seals them, makes claims of what came from elsewhere, respells documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from database_facts import migrate_to
from sqlalchemy import select, text

from fusery.registry import tables
from fusery.registry.audit.records import check_records, unsealed
from fusery.registry.audit.spellings import check_spellings
from fusery.registry.audit.upgrade import bring_up, seal_older
from fusery.registry.database import Database, events, log, schema
from fusery.registry.fusion.foreign import foreign_key


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    opened = Database.open(empty_url)
    yield opened
    opened.close()


def execute(database: Database, statements: str) -> None:
    with database.write() as session:
        for statement in statements.split(";"):
            session.execute(text(statement))


def found(database: Database) -> list[str]:
    with database.read() as session:
        assert list(events.verify_chain(session)) == []
        return [f"{one.code} {one.subject}" for one in check_records(session)]


def test_an_upgrade_seals_what_there_is_and_a_second_one_nothing(database: Database) -> None:
    migrate_to(database, "0007")
    execute(database, "INSERT INTO task (id, name) VALUES (1, 'course_rec'), (2, 'support'), (3, 'search')")
    schema.upgrade(database, afterwards=partial(seal_older, actor="ann"))
    assert found(database) == []
    with database.read() as session:
        entry = events.last(session)
        assert entry is not None
        assert (entry.action, entry.actor, entry.detail) == ("records.sealed", "ann", '{"since":"0007"}')
    execute(database, "INSERT INTO task (id, name) VALUES (9, 'smuggled')")
    schema.upgrade(database, afterwards=partial(seal_older, actor="eve"))
    assert found(database) == ["record_unsealed task smuggled"]
    execute(database, "UPDATE task SET name = 'other' WHERE id = 2; DELETE FROM task WHERE id = 3")
    assert found(database) == [
        "record_changed task support",
        "record_unsealed task smuggled",
        "record_missing task search",
    ]


WHEN = "2026-01-15 00:00:00.000000"
OURS, THEIRS, FILES = "a" * 64, "b" * 64, "c" * 64
REGISTRY = "11111111-2222-3333-4444-555555555555"
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights,
        written_by_mlx, created_at, created_by)
    VALUES (1, 'b', 1, 'a', 'llama', 7, 'bf16', 8, '{{}}', '{{}}', true, '{WHEN}', 'ann');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, 'd', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann');
INSERT INTO fused (id, key, base_id, adapter_id, recipe, engine, precision, manifest_id, digest, bytes, seconds, verdict,
        created_at, created_by, used_at)
    VALUES (1, '{OURS}', 1, 1, '{{}}', 'e', 'keep', 1, 'm', 0, 1.0, 'PASS', '{WHEN}', 'ann', '{WHEN}'),
           (2, '{THEIRS}', 1, 1, '{{}}', 'e', 'keep', 1, 'm', 0, 1.0, 'PASS', '{WHEN}', 'eve', '{WHEN}'),
           (3, '{FILES}', 1, 1, '{{}}', 'e', 'keep', 1, 'm', 0, 1.0, 'PASS', '{WHEN}', 'ann', '{WHEN}')
"""
RECEIVED = {THEIRS: ["record"], FILES: ["files"]}
"""What the log says was received, and what of it: a record, or only the files of what was made here."""


def received(database: Database) -> None:
    with database.write() as session:
        for key, added in RECEIVED.items():
            detail = {"added": added, "digest": "m", "origin": {"registry": REGISTRY}}
            events.record(
                session, action="fused.received", kind="fused", subject=key, detail=detail, actor="ann"
            )


def origins(database: Database) -> dict[str, str | None]:
    with database.read() as session:
        return {row.key: row.origin for row in session.scalars(select(tables.Fused))}


def test_an_upgrade_makes_claims_of_what_came_from_elsewhere(database: Database) -> None:
    migrate_to(database, "0008")
    execute(database, ROWS)
    received(database)
    schema.upgrade(database, afterwards=lambda session, since: _as_upgraded(session))
    assert origins(database) == {OURS: None, FILES: None, foreign_key(REGISTRY, THEIRS): REGISTRY}
    assert found(database) == []
    with database.read() as session:
        last = events.last(session)
        assert last is not None
        assert (last.action, json.loads(last.detail)) == ("fused.disowned", {"fused": 1, "since": "0008"})


def _as_upgraded(session: object) -> None:
    seal_older(session, "0007", actor="ann")  # type: ignore[arg-type]  # the rows were put in without seals
    bring_up(session, "0008", actor="ann")  # type: ignore[arg-type]


WRITTEN = {
    "course_rec#prod": '{"val_loss_within": 0.5, "approvals": 1}',
    "mail#prod": '{"far": 1e16, "none": -0.0, "much": 10000000000000000000, "l\\u00e4nger": ["a", 1.5]}',
    "prod": "{}",
}
"""Rules as the release before wrote them: in the order in which somebody gave them."""


@pytest.fixture
def older(database: Database) -> Database:
    migrate_to(database, "0007")
    schema.upgrade(database, afterwards=partial(seal_older, actor="ann"))
    schema.downgrade(database, "0010")
    with database.write() as session:
        session.execute(text("INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0)"))
        session.execute(text("INSERT INTO tensor (manifest_id, name, digest) VALUES (1, 'a', 'd')"))
        for number, (target, rules) in enumerate(WRITTEN.items(), 1):
            task, _, alias = target.rpartition("#")
            values = {"id": number, "task": task, "alias": alias, "rules": rules}
            session.execute(
                text(
                    "INSERT INTO alias_rule (id, task, alias, guarded, rules, created_at, created_by)"
                    f" VALUES (:id, :task, :alias, true, {_document(database)}, '2026-01-15 00:00:00.000000', 'ann')"
                ),
                values,
            )
    return database


@contextmanager
def later_tables(database: Database) -> Iterator[None]:
    later = [
        tables.metadata.tables[name]
        for name in ("adapter_source", "evaluation", "token", "webhook", "webhook_delivery")
    ]
    with database.write() as session:
        tables.metadata.create_all(session.connection(), tables=later)
    yield
    with database.write() as session:
        tables.metadata.drop_all(session.connection(), tables=later)


def _document(database: Database) -> str:
    return ":rules" if database.dialect == "sqlite" else "CAST(:rules AS JSONB)"


def test_documents_have_one_spelling_afterwards(older: Database) -> None:
    if older.dialect == "sqlite":  # which lets an audit ask for columns of later revisions
        with later_tables(older), older.read() as session:
            assert {one.subject.split(" ")[0] for one in check_spellings(session)} == {"alias_rule.rules"}
    schema.upgrade(older)
    with older.read() as session:
        assert list(check_spellings(session)) == []
        assert session.scalar(text("SELECT count(*) FROM tensor")) == 0


def test_seals_of_before_hold(older: Database) -> None:
    with later_tables(older), older.write() as session:
        session.execute(text("DELETE FROM tensor"))
        for seals in unsealed(session):
            events.record(
                session, action="records.sealed", kind="registry", subject="records", detail={}, actor="ann"
            )
            log.write(session, seals)
    schema.upgrade(older)
    with older.read() as session:
        assert list(check_records(session)) == []
        assert list(events.verify_chain(session)) == []


def test_what_is_no_document_is_left_for_an_audit(older: Database) -> None:
    if older.dialect != "sqlite":
        return
    with older.write() as session:
        session.execute(text("UPDATE alias_rule SET rules = '{' WHERE id = 3"))
    schema.upgrade(older)
    with older.read() as session:
        assert [one.subject for one in check_spellings(session)] == ["alias_rule.rules 3"]


GUARDS = {
    "sqlite": (
        "CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER task_spelling_insert BEFORE INSERT ON task WHEN NEW.name > 'z' BEGIN SELECT RAISE(ABORT, 'no'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE FUNCTION move_alias(task integer, name text) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER event_no_update BEFORE UPDATE ON event FOR EACH ROW EXECUTE FUNCTION refuse_event_change()",
    ),
}
"""What earlier versions made in databases."""

LEFT = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
    " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace",
}


def test_triggers_and_functions_are_dropped(database: Database) -> None:
    migrate_to(database, "0019")
    with database.schema_change() as connection:
        for statement in GUARDS[database.dialect]:
            connection.exec_driver_sql(statement)
    schema.upgrade(database)
    with database.read() as session:
        assert session.execute(text(LEFT[database.dialect])).all() == []
