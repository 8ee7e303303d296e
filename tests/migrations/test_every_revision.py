"""Every migration keeps the rows and the log, up and down, and what was recorded before works after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from database_facts import Rows, all_rows, migrate_to, snapshot
from sqlalchemy import inspect, select, text
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.database import Database, schema
from fusery.registry.database.sealing import KINDS, seal_rows
from fusery.registry.tables.values import kind_of, to_json
from fusery.storage.digest import digest_json

REVISIONS = [f"{number:04}" for number in range(1, int(schema.HEAD) + 1)]
WHEN = "2026-01-15 00:00:00.000000"
LONG = "m" * 300
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, '{"d" * 64}', 0), (2, 'n', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, quantization, bytes, config,
        weights, location, created_at, created_by)
    VALUES (1, '{"b" * 64}', 1, 'a', 'llama', 7, 'bf16', '{{"bits": 4}}', 8, '{{"x": [1, null]}}',
            '{{"w": [[2, 3], "BF16", null]}}', '/models/b', '{WHEN}', 'ann'),
        (3, 'c', 2, 'a', 'qwen2', 9007199254740993, 'f16', NULL, 9, '{{}}', '{{}}', NULL, '{WHEN}', 'bob');
INSERT INTO base_name (id, base_id, name, folded, created_at) VALUES (1, 3, 'C', 'c', '{WHEN}');
INSERT INTO base_revision (id, base_id, source, revision, created_at) VALUES (1, 1, 'hub:org/b', 'main', '{WHEN}');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'course_rec_v1_20260115', 1, 1, '{"d" * 64}', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann');
INSERT INTO curve_point (adapter_id, iteration, train_loss, val_loss, learning_rate) VALUES (1, 10, 0.5, NULL, 1e-5);
INSERT INTO fused (id, key, base_id, adapter_id, recipe, engine, precision, quantization, manifest_id, digest, bytes,
        seconds, verdict, retained, cosine, relative_error, created_at, created_by, used_at)
    VALUES (1, 'k', 1, 1, '{{"seed": null}}', 'canonical-1', 'keep', NULL, 2, 'e', 9, 0.1, 'LOST', 0.1, 0.25, NULL, '{WHEN}',
            'ann', '{WHEN}');
INSERT INTO module_fidelity (fused_id, module, norm, retained, cosine, relative_error)
    VALUES (1, '{LONG}', 0.1, 0.30000000000000004, NULL, NULL), (1, 'other', 2.0, 1.0, 1.0, 0.0);
INSERT INTO bundle (id, target, path, digest, manifest_id, fused_id, created_at, created_by)
    VALUES (1, 'model', '/out', 'g', 2, 1, '{WHEN}', 'ann');
INSERT INTO bundle_adapter (bundle_id, adapter_id) VALUES (1, 1);
INSERT INTO event (seq, at, actor, action, subject_kind, subject, detail, previous, hash)
    VALUES (1, '{WHEN}', 'ann', 'a', 'k', 's', '{{}}', 'p', 'h')
"""


@pytest.fixture
def first(empty_url: str) -> Iterator[Database]:
    database = Database.open(empty_url)
    migrate_to(database, "0001")
    with database.write() as session:
        for statement in ROWS.split(";"):
            session.execute(text(statement))
    yield database
    database.close()


def of_columns(rows: Rows, older: Rows) -> Rows:
    return {
        table: sorted(({key: row[key] for key in old[0]} for row in rows[table]), key=str)
        if old
        else rows[table]
        for table, old in older.items()
    }


def added_values(rows: Rows, older: Rows) -> set[object]:
    pairs = ((row, old[0]) for table, old in older.items() if old for row in rows[table])
    return {value for row, old in pairs for key, value in row.items() if key not in old}


def test_every_migration_keeps_the_rows_up_and_down(first: Database) -> None:
    states = [(all_rows(first), snapshot(first))]
    for revision in REVISIONS[1:]:
        before = states[-1][0]
        migrate_to(first, revision)
        rows = all_rows(first)
        assert of_columns(rows, before) == before, revision
        assert not any(rows[table] for table in rows.keys() - before.keys()), revision
        # Every base of before was written by mlx.
        assert added_values(rows, before) <= {None} | ({True} if revision == "0002" else set()), revision
        states.append((rows, snapshot(first)))
    assert schema.check(first) == []
    for revision, state in reversed([*zip(REVISIONS, states, strict=True)][:-1]):
        schema.downgrade(first, revision)
        assert (all_rows(first), snapshot(first)) == state, revision
    schema.upgrade(first)
    assert (all_rows(first), snapshot(first)) == states[-1]
    assert schema.check(first) == []


def test_nothing_that_is_there_changes_its_seal(first: Database) -> None:
    adapter = tables.Adapter.__table__
    with first.write() as session:
        session.execute(text("DELETE FROM curve_point"))
        existing = {column["name"] for column in inspect(session.connection()).get_columns("adapter")}
        known = [column for column in adapter.columns if column.name in existing]
        (row,) = session.execute(select(*known)).mappings()
        plain = {one.name: to_json(kind_of(one), row[one.name]) for one in known if row[one.name] is not None}
    schema.upgrade(first)
    with first.read() as session:
        (seal,) = seal_rows(session, KINDS["adapter"], [1])
    assert seal.digest == digest_json({"adapter": [plain]})


@pytest.fixture
def registered(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    base = tiny_models.make_base(tmp_path / "tiny", layers=1)
    folder = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)
    with Registry(open_workspace(tmp_path / "home", database_url)) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        registry.adapters.register(
            folder, base="tiny", task="t", date="20260115", val_loss=2.96, tags={"a": "b"}
        )
        yield registry


def test_a_registry_of_an_older_release_works_after_the_upgrade(registered: Registry) -> None:
    database = registered.workspace.database
    schema.downgrade(database, "0008")
    schema.upgrade(database)
    assert registered.upkeep.audit().ok
    registered.adapters.amend("t@1", val_loss=0.296, clear=["tag.a"], reason="typo")
    registered.evaluations.record("t@1", {"acc": 0.5, "f1": 0.25})
    registered.deployments.record("t@1", "eu/ranker")
    registered.acting("ann", authenticated=False).aliases.approve("t@1", "prod")
    schema.downgrade(database, "0014")
    schema.upgrade(database)
    assert registered.upkeep.audit().ok  # no seal has changed
    assert [(row.place, row.via) for row in registered.deployments.list()] == [("eu/ranker", None)]
    registered.evaluations.withdraw("t@1", "acc", reason="of another adapter")
    registered.webhooks.add("https://hooks.example.org", "alias.moved", name="ci")
    registered.tokens.create("ann", "reader")
    assert registered.upkeep.audit().ok
    log = registered.upkeep.log()
    schema.downgrade(database, "0014")
    assert [row["metric"] for row in all_rows(database)["evaluation"]] == ["f1"]
    schema.downgrade(database, "0008")
    assert all_rows(database)["adapter"][0]["val_loss"] == 0.296
    schema.upgrade(database)
    assert registered.upkeep.log() == log
    assert registered.upkeep.audit_chain().ok
    assert registered.evaluations.list() == registered.tokens.list(revoked=True) == []
    assert registered.webhooks.list() == []
