"""0011 to 0012 and back: a fact that nobody has said yet, in no seal, and gone again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database_facts import all_rows, migrate_to, snapshot
from sqlalchemy import inspect, select, text

from fusery.registry import tables
from fusery.registry.database import Database, schema
from fusery.registry.database.sealing import KINDS, seal_rows
from fusery.registry.tables.values import kind_of, to_json
from fusery.storage.digest import digest_json

ADAPTER = tables.Adapter.__table__

WHEN = "2026-01-15 00:00:00.000000"
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, '{"d" * 64}', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights,
        written_by_mlx, created_at, created_by)
    VALUES (1, '{"b" * 64}', 1, 'a', 'llama', 7, 'bf16', 8, '{{}}', '{{}}', true, '{WHEN}', 'ann');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, '{"d" * 64}', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann')
"""


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with an adapter in it."""
    database = Database.open(empty_url)
    migrate_to(database, "0011")
    with database.write() as session:
        for statement in ROWS.split(";"):
            session.execute(text(statement))
    yield database
    database.close()


def test_up_and_down_keep_every_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    migrate_to(older, "0012")
    (row,) = all_rows(older)["adapter"]
    assert (row["trained_on"], row["trained_on_name"]) == (None, None)
    schema.downgrade(older, "0011")
    assert (all_rows(older), snapshot(older)) == (before, tables_before)


def test_nothing_that_is_there_changes_its_seal(older: Database) -> None:
    with older.read() as session:
        there = {column["name"] for column in inspect(session.connection()).get_columns("adapter")}
        known = [column for column in ADAPTER.columns if column.name in there]
        (row,) = session.execute(select(*known)).mappings()
        plain = {one.name: to_json(kind_of(one), row[one.name]) for one in known if row[one.name] is not None}
    schema.upgrade(older)
    assert schema.check(older) == []
    with older.read() as session:
        (seal,) = seal_rows(session, KINDS["adapter"], [1])
    assert seal.digest == digest_json({"adapter": [plain]})


def test_what_was_said_is_gone_on_the_way_back_and_the_rows_stay(older: Database) -> None:
    migrate_to(older, "0012")
    with older.write() as session:
        session.execute(text(f"UPDATE adapter SET trained_on = '{'e' * 64}', trained_on_name = 'dense'"))
    schema.downgrade(older, "0011")
    (row,) = all_rows(older)["adapter"]
    assert "trained_on" not in row
    assert row["name"] == "course_rec_v1_20260115"
