"""What the tables themselves refuse, after all migrations."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from fusery.registry.database import Database

WHEN = "2026-01-15 00:00:00.000000"
ROWS = f"""
INSERT INTO manifest (id, digest, size) VALUES (1, 'm', 0), (2, 'n', 0);
INSERT INTO base_model (id, digest, manifest_id, architecture, model_type, parameters, dtype, bytes, config, weights,
        written_by_mlx, created_at, created_by)
    VALUES (1, 'b', 1, 'a', 'm', 1, 'bf16', 0, '{{}}', '{{}}', true, '{WHEN}', 'ann'),
        (2, 'c', 1, 'a', 'm', 1, 'bf16', 0, '{{}}', '{{}}', true, '{WHEN}', 'ann');
INSERT INTO task (id, name) VALUES (1, 'course_rec');
INSERT INTO blob (digest, size, generation, state, created_at) VALUES ('d', 1, 0, 'ready', '{WHEN}');
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
        trainable_parameters, total_parameters, training, created_at, created_by)
    VALUES (1, 1, 1, '2026-01-15', 'a1', 1, 1, 'd', 'lora', 8, '[]', 1, 2, '{{}}', '{WHEN}', 'ann');
INSERT INTO fused (id, key, base_id, adapter_id, recipe, engine, precision, manifest_id, digest, bytes, seconds, verdict,
        created_at, created_by, used_at)
    VALUES (1, 'k', 1, 1, '{{}}', 'e', 'keep', 2, 'm', 0, 1.0, 'PASS', '{WHEN}', 'ann', '{WHEN}');
INSERT INTO module_fidelity (fused_id, module, norm, retained) VALUES (1, 'one', 1.0, 1.0), (1, 'two', 1.0, 1.0);
INSERT INTO adapter_rendering (adapter_id, form, digest, manifest_id, created_at) VALUES (1, 'mlx', 'r', 2, '{WHEN}');
INSERT INTO webhook (id, uid, name, url, actions, tasks, private, created_at, created_by)
    VALUES (1, 'u', 'ci', 'https://hooks.example.org', '["a"]', '[]', false, '{WHEN}', 'ann');
INSERT INTO webhook_delivery (webhook_id, position, attempts) VALUES (1, 0, 0);
INSERT INTO event (seq, at, actor, action, subject_kind, subject, detail, previous, hash)
    VALUES (1, '{WHEN}', 'ann', 'a', 'k', 's', '{{}}', 'p', 'h')
"""
ADAPTER = """
INSERT INTO adapter (id, task_id, version, date, name, base_id, manifest_id, digest, method, layers, target_modules,
    trainable_parameters, total_parameters, training, created_at, created_by, rank)
SELECT 2, task_id, {version}, date, {name}, {base}, manifest_id, digest, {method}, layers, target_modules,
    trainable_parameters, total_parameters, training, created_at, created_by, {rank} FROM adapter
"""
GOOD = {"version": "2", "name": "'a2'", "base": "1", "method": "'lora'", "rank": "8"}
REFUSED = [
    *(
        ADAPTER.format(**GOOD | {field: value})
        for field, value in (
            ("version", "1"),
            ("version", "0"),
            ("name", "'a1'"),
            ("base", "9"),
            ("rank", "0"),
        )
    ),
    ADAPTER.format(**GOOD | {"method": "'magic'"}),
    "UPDATE blob SET state = 'lost'",
    "UPDATE blob SET size = -1",
    "INSERT INTO manifest_file (manifest_id, path, size, sha256, blob) VALUES (1, 'x', 1, 'e', 'd')",
    "INSERT INTO manifest_file (manifest_id, path, size, sha256, blob) VALUES (1, 'x', 1, 'f', 'f')",
    f"INSERT INTO registry (id, store_id, created_at) VALUES (2, 's', '{WHEN}')",
    *(f"DELETE FROM {table}" for table in ("manifest", "base_model", "adapter", "fused", "webhook")),
    "UPDATE base_model SET parameters = 0",
    "UPDATE base_model SET digest = 'same'",
    "UPDATE base_model SET written_by_mlx = NULL",
    "UPDATE module_fidelity SET module = 'same'",
    "UPDATE fused SET verdict = 'FINE'",
    f"INSERT INTO adapter_rendering (adapter_id, form, digest, manifest_id, created_at) VALUES (1, 'gguf', 's', 2, '{WHEN}')",
    "INSERT INTO adapter_source (adapter_id, position, source_id) VALUES (1, 0, 2)",
    *(
        f"INSERT INTO training_run (adapter_id, chosen, state, source, checkpoint) VALUES ({values})"
        for values in (
            "1, 'worst', 'finished', 'log', 1",
            "1, 'best', 'running', 'log', 1",
            "1, 'best', 'finished', 'rumour', 1",
            "1, 'best', 'finished', 'log', -1",
        )
    ),
    "UPDATE webhook_delivery SET position = -1",
    "UPDATE webhook_delivery SET attempts = -1",
    "UPDATE webhook SET url = NULL",
]


def is_refused(database: Database, statement: str) -> bool:
    try:
        with database.write() as session:
            session.execute(text(statement))
    except DBAPIError:
        return True
    return False


def test_constraints_hold(database: Database) -> None:
    for statement in ROWS.split(";"):
        assert not is_refused(database, statement), statement
    assert [statement for statement in REFUSED if not is_refused(database, statement)] == []
    assert not is_refused(database, ADAPTER.format(**GOOD))
    assert not is_refused(
        database, "INSERT INTO adapter_source (adapter_id, position, source_id) VALUES (2, 0, 1)"
    )
    run = "INSERT INTO training_run (adapter_id, chosen, state, source, checkpoint) VALUES (1, 'best', 'finished', 'log', 1)"
    assert not is_refused(database, run)
