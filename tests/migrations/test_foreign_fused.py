"""0008 to 0010: what the log says came from another registry is a claim from then on, and sealed as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest
from database_facts import migrate_to
from sqlalchemy import select, text

from fusery.registry import tables
from fusery.registry.audit.records import check_records
from fusery.registry.audit.upgrade import bring_up, seal_older
from fusery.registry.database import Database, events, schema
from fusery.registry.fusion.foreign import foreign_key

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


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with fused artifacts of which one came from elsewhere, sealed."""
    database = Database.open(empty_url)
    migrate_to(database, "0008")
    with database.write() as session:
        for statement in ROWS.split(";"):
            session.execute(text(statement))
    yield database
    database.close()


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


def discrepancies(database: Database) -> list[str]:
    with database.read() as session:
        assert list(events.verify_chain(session)) == []
        return [f"{one.code} {one.subject}" for one in check_records(session)]


def test_an_upgrade_makes_claims_of_what_came_from_elsewhere(older: Database) -> None:
    received(older)
    schema.upgrade(older, afterwards=lambda session, since: _as_upgraded(session))
    assert origins(older) == {OURS: None, FILES: None, foreign_key(REGISTRY, THEIRS): REGISTRY}
    assert discrepancies(older) == []
    with older.read() as session:
        last = events.last(session)
        assert last is not None
        assert (last.action, json.loads(last.detail)) == ("fused.disowned", {"fused": 1, "since": "0008"})


def _as_upgraded(session: object) -> None:
    seal_older(session, "0007", actor="ann")  # type: ignore[arg-type]  # the rows were put in without seals
    bring_up(session, "0008", actor="ann")  # type: ignore[arg-type]


def test_an_upgrade_without_any_says_nothing(older: Database) -> None:
    schema.upgrade(older, afterwards=partial(bring_up, actor="ann"))
    assert set(origins(older).values()) == {None}
    with older.read() as session:
        assert events.last(session) is None
