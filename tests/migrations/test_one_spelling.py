"""0010 to 0011: documents are respelled, seals hold, and the index of tensors starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from database_facts import migrate_to
from sqlalchemy import text

from fusery.registry import tables
from fusery.registry.audit.records import check_records
from fusery.registry.audit.spellings import check_spellings
from fusery.registry.audit.upgrade import seal_older
from fusery.registry.database import Database, events, schema
from fusery.registry.database.protection import damaged

WRITTEN = {
    "course_rec#prod": '{"val_loss_within": 0.5, "approvals": 1}',
    "mail#prod": '{"far": 1e16, "none": -0.0, "much": 10000000000000000000, "l\\u00e4nger": ["a", 1.5]}',
    "prod": "{}",
}
"""Rules as the release before wrote them: in the order in which somebody gave them."""


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with sealed documents and tensors."""
    database = Database.open(empty_url)
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
    yield database
    database.close()


@contextmanager
def later_tables(database: Database) -> Iterator[None]:
    """Have the tables that came later, which an audit of today asks for."""
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
        assert damaged(session.connection()) == []
        assert session.scalar(text("SELECT count(*) FROM tensor")) == 0


def test_seals_of_before_hold(older: Database) -> None:
    from fusery.registry.audit.records import unsealed
    from fusery.registry.database import log

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
