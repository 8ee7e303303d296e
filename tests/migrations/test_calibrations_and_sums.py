"""0001 to 0002 and back, with rows in every table that changes and in those that point to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database_facts import Rows, all_rows, migrate_to, snapshot
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from fusery.registry.database import Database, schema
from fusery.registry.errors import BadInputError

WHEN = "2026-01-15 00:00:00.000000"
LONG = "m" * 300
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0), (2, 'n', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, quantization, bytes, config,
        weights, location, created_at, created_by)
    VALUES (1, 'b', 1, 'a', 'llama', 7, 'bf16', '{{"bits": 4}}', 8, '{{"x": [1, null]}}', '{{"w": [[2, 3], "BF16", null]}}',
            '/models/b', '{WHEN}', 'ann'),
        (3, 'c', 2, 'a', 'qwen2', 9007199254740993, 'f16', NULL, 9, '{{}}', '{{}}', NULL, '{WHEN}', 'bob');
INSERT INTO base_name (id, base_id, name, folded, created_at) VALUES (1, 3, 'C', 'c', '{WHEN}');
INSERT INTO base_revision (id, base_id, source, revision, created_at) VALUES (1, 1, 'hub:org/b', 'main', '{WHEN}');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, 'd', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann');
INSERT INTO fused (id, key, base_id, adapter_id, recipe, engine, precision, quantization, manifest_id, digest, bytes,
        seconds, verdict, retained, cosine, relative_error, created_at, created_by, used_at)
    VALUES (1, 'k', 1, 1, '{{"seed": null}}', 'canonical-1', 'keep', NULL, 2, 'e', 9, 0.1, 'LOST', 0.1, 0.25, NULL, '{WHEN}',
            'ann', '{WHEN}'),
        (2, 'l', 1, 1, '{{}}', 'canonical-1', 'dequantize', NULL, 2, 'f', 9, 0.1, 'PASS', 1.0, 1.0, 0.0, '{WHEN}', 'ann',
            '{WHEN}');
INSERT INTO module_fidelity (fused_id, module, norm, retained, cosine, relative_error)
    VALUES (1, '{LONG}', 0.1, 0.30000000000000004, NULL, NULL), (1, 'other', 2.0, 1.0, 1.0, 0.0), (2, 'other', 2.0, 1.0, 1.0, 0.0);
INSERT INTO bundle (id, target, path, digest, manifest_id, fused_id, created_at, created_by)
    VALUES (1, 'model', '/out', 'g', 2, 1, '{WHEN}', 'ann');
INSERT INTO bundle_adapter (bundle_id, adapter_id) VALUES (1, 1)
"""
NEW_TABLES = {"calibration", "fused_extra"}


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the release before, with rows."""
    database = Database.open(empty_url)
    migrate_to(database, "0001")
    execute(database, ROWS)
    yield database
    database.close()


def execute(database: Database, statements: str) -> None:
    with database.write() as session:
        for statement in statements.split(";"):
            session.execute(text(statement))


def without(rows: Rows, **columns: str) -> Rows:
    """Return rows without one column of each table named."""
    return {
        table: [{key: value for key, value in row.items() if key != columns.get(table)} for row in each]
        for table, each in rows.items()
    }


def test_up_and_down_keep_every_row(older: Database) -> None:
    before, tables_before = all_rows(older), snapshot(older)
    assert {name for name in before if before[name]} >= {"base_model", "fused", "module_fidelity", "bundle"}
    migrate_to(older, "0002")
    after = all_rows(older)
    assert [row["written_by_mlx"] for row in after["base_model"]] == [True, True]
    assert [row["noise"] for row in after["fused"]] == [None, None]
    assert after.keys() - before.keys() == NEW_TABLES
    assert not any(after.pop(name) for name in NEW_TABLES)
    assert without(after, base_model="written_by_mlx", fused="noise") == before
    schema.downgrade(older, "0001")
    assert all_rows(older) == before
    assert snapshot(older) == tables_before


def test_an_upgraded_database_is_like_a_new_one(older: Database) -> None:
    schema.upgrade(older)
    assert schema.check(older) == []
    upgraded = snapshot(older)
    schema.downgrade(older, "base")
    schema.upgrade(older)
    assert snapshot(older) == upgraded


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM base_model WHERE id = 1",
        "DELETE FROM fused WHERE id = 1",
        "UPDATE base_model SET manifest_id = 9",
        "UPDATE base_model SET parameters = 0",
        "UPDATE base_model SET digest = 'same'",
        "UPDATE module_fidelity SET fused_id = 9",
        "UPDATE module_fidelity SET module = 'same'",
        "UPDATE fused SET verdict = 'FINE'",
    ],
    ids=[
        "base in use",
        "fused model in use",
        "no manifest",
        "no parameters",
        "two bases of one digest",
        "no fused model",
        "module twice",
        "verdict",
    ],
)
@pytest.mark.parametrize("way", ["up", "down"])
def test_constraints_still_hold(older: Database, way: str, statement: str) -> None:
    schema.upgrade(older)
    if way == "down":
        schema.downgrade(older, "0001")
    with pytest.raises(IntegrityError):
        execute(older, statement)


def test_whoever_adds_a_base_says_whether_mlx_wrote_it(older: Database) -> None:
    copied = "digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights, created_at, created_by"
    values = copied.replace("digest", "'other'", 1)
    schema.upgrade(older)
    with pytest.raises(IntegrityError, match="written_by_mlx"):
        execute(older, f"INSERT INTO base_model ({copied}) SELECT {values} FROM base_model WHERE id = 1")


def test_longer_names_of_modules_are_kept_or_refused_on_the_way_down(older: Database) -> None:
    schema.upgrade(older)
    execute(older, f"UPDATE module_fidelity SET module = '{LONG * 2}' WHERE module = '{LONG}'")
    before = all_rows(older)
    if older.dialect == "postgresql":
        with pytest.raises(BadInputError, match="too long"):
            schema.downgrade(older, "0001")
        assert all_rows(older) == before
        assert schema.state(older).status == "current"
    else:
        schema.downgrade(older, "0001")
        assert all_rows(older)["module_fidelity"] == before["module_fidelity"]
