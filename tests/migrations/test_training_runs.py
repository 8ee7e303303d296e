"""0002 to 0003 and back: a table for training runs, and nothing else changes."""

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
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, 'd', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann');
INSERT INTO curve_point (adapter_id, iteration, train_loss, val_loss, learning_rate) VALUES (1, 10, 0.5, NULL, 1e-5)
"""
RUN = "INSERT INTO training_run (adapter_id, chosen, state, source, checkpoint) VALUES ({})"


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the release before, with rows."""
    database = Database.open(empty_url)
    migrate_to(database, "0002")
    execute(database, ROWS)
    yield database
    database.close()


def execute(database: Database, statements: str) -> None:
    with database.write() as session:
        for statement in statements.split(";"):
            session.execute(text(statement))


def test_up_and_down_keep_every_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    migrate_to(older, "0003")
    assert all_rows(older) == {**before, "training_run": []}
    execute(older, RUN.format("1, 'best', 'finished', 'log', 600"))
    schema.downgrade(older, "0002")
    assert all_rows(older) == before
    assert snapshot(older) == tables_before


@pytest.mark.parametrize(
    "values",
    [
        "1, 'worst', 'finished', 'log', 1",
        "1, 'best', 'running', 'log', 1",
        "1, 'best', 'finished', 'rumour', 1",
        "1, 'best', 'finished', 'log', -1",
        "2, 'best', 'finished', 'log', 1",
        "1, NULL, 'finished', 'log', 1",
    ],
    ids=["chosen", "state", "source", "checkpoint", "no adapter", "nothing chosen"],
)
def test_what_cannot_be_is_refused(older: Database, values: str) -> None:
    migrate_to(older, "0003")
    with pytest.raises(IntegrityError):
        execute(older, RUN.format(values))
