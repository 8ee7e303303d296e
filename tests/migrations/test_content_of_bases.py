"""0004 to 0005 and back: bases keep their rows, and have no content until somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database_facts import all_rows, migrate_to, snapshot
from sqlalchemy import text

from fusery.registry.database import Database, schema

WHEN = "2026-01-15 00:00:00.000000"
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, quantization, bytes, config,
        weights, written_by_mlx, location, created_at, created_by)
    VALUES (1, 'b', 1, 'a', 'llama', 7, 'bf16', NULL, 8, '{{"x": [1, null]}}', '{{}}', true, '/models/b', '{WHEN}', 'ann');
INSERT INTO base_name (id, base_id, name, folded, created_at) VALUES (1, 1, 'B', 'b', '{WHEN}')
"""


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with a base."""
    database = Database.open(empty_url)
    migrate_to(database, "0004")
    with database.write() as session:
        for statement in ROWS.split(";"):
            session.execute(text(statement))
    yield database
    database.close()


def test_up_and_down_keep_every_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    migrate_to(older, "0005")
    (base,) = all_rows(older)["base_model"]
    assert base == {**before["base_model"][0], "content": None}
    schema.downgrade(older, "0004")
    assert all_rows(older) == before
    assert snapshot(older) == tables_before
