"""0003 to 0004 and back, with an adapter whose other form is on record."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database_facts import all_rows, migrate_to, snapshot
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from fusery.registry.database import Database, schema

WHEN = "2026-01-15 00:00:00.000000"
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0), (2, 'n', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights,
        written_by_mlx, created_at, created_by)
    VALUES (1, 'b', 1, 'a', 'llama', 7, 'bf16', 8, '{{}}', '{{}}', true, '{WHEN}', 'ann');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, 'd', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann')
"""
RENDERING = f"""
INSERT INTO adapter_rendering (adapter_id, form, digest, manifest_id, created_at) VALUES (1, 'mlx', 'r', 2, '{WHEN}')
"""


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database before there were renderings, with an adapter."""
    database = Database.open(empty_url)
    migrate_to(database, "0003")
    execute(database, ROWS)
    yield database
    database.close()


def execute(database: Database, statements: str) -> None:
    with database.write() as session:
        for statement in statements.split(";"):
            session.execute(text(statement))


def test_up_and_down_keep_every_other_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    migrate_to(older, "0004")
    execute(older, RENDERING)
    after = all_rows(older)
    assert [row["digest"] for row in after.pop("adapter_rendering")] == ["r"]
    assert after == before
    schema.downgrade(older, "0003")
    assert all_rows(older) == before
    assert snapshot(older) == tables_before


@pytest.mark.parametrize(
    "statement",
    [
        RENDERING.replace("'mlx'", "'gguf'"),
        RENDERING.replace("(1, 'mlx'", "(9, 'mlx'"),
        RENDERING.replace("'r', 2", "'r', 9"),
        f"{RENDERING}; {RENDERING}",
        f"{RENDERING}; DELETE FROM manifest WHERE id = 2",
    ],
    ids=["no such form", "no adapter", "no manifest", "twice", "manifest in use"],
)
def test_the_constraints_hold(older: Database, statement: str) -> None:
    migrate_to(older, "0004")
    with pytest.raises(IntegrityError):
        execute(older, statement)
