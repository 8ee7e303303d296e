"""0012 to 0013 and back: a table for what an adapter was computed from, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database_facts import all_rows, migrate_to, snapshot
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from fusery.registry.database import Database, schema

WHEN = "2026-01-15 00:00:00.000000"
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights,
        written_by_mlx, created_at, created_by)
    VALUES (1, 'b', 1, 'a', 'llama', 7, 'bf16', 8, '{{}}', '{{}}', true, '{WHEN}', 'ann');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, 'd', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann')
"""
SOURCE = "INSERT INTO adapter_source (adapter_id, position, source_id) VALUES ({})"


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the release before, with rows."""
    database = Database.open(empty_url)
    migrate_to(database, "0012")
    execute(database, ROWS)
    yield database
    database.close()


def execute(database: Database, statements: str) -> None:
    with database.write() as session:
        for statement in statements.split(";"):
            session.execute(text(statement))


def test_up_and_down_keep_every_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    migrate_to(older, "0013")
    assert all_rows(older) == {**before, "adapter_source": []}
    execute(older, SOURCE.format("1, 0, 1"))
    schema.downgrade(older, "0012")
    assert all_rows(older) == before
    assert snapshot(older) == tables_before


@pytest.mark.parametrize("values", ["1, 0, 2", "2, 0, 1", "1, NULL, 1"])
def test_what_cannot_be_is_refused(older: Database, values: str) -> None:
    migrate_to(older, "0013")
    with pytest.raises(IntegrityError):
        execute(older, SOURCE.format(values))
