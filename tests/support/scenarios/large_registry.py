"""A registry with as many adapters as one likes, quickly: rows that are valid in all they say, without the bytes.

    with Registry.open(home) as registry:
        crowd.fill(registry, 1_000_000)

A registry needs a base first.  Versions come by the hundred: so many tasks, so many runs and so many parents as a real
registry of that size would have, so that a page of `list` has the same work whatever the size.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import canonical_json

VERSIONS = 100
"""Versions of each task."""

TEAMS = 50
"""Values of the tag `team`, however many adapters there are."""

START = datetime(2020, 1, 1, tzinfo=UTC)
_BATCH = 5_000
_COMMITTED = 50_000
_CONFIG = hashlib.sha256(b"config").hexdigest()

Rows = dict[Any, list[dict[str, Any]]]

AMENDED = """
INSERT INTO amendment (adapter_id, field, before, after, reason, at, since, "by")
SELECT id, 'note', 'null', 'null', '', created_at, created_at, created_by FROM adapter
"""
"""A statement by which each adapter was amended."""

EVALUATED = """
INSERT INTO evaluation (adapter_id, metric, value, dataset, split, harness, at, "by")
SELECT id, 'courses.acc', (id * 7919 % 1009) / 1009.0 + before, 'courses', 'test', seed, created_at, created_by
FROM adapter CROSS JOIN (SELECT 'a' AS seed, 1.0 AS before UNION ALL SELECT 'b', 0.0) AS twice WHERE id % 11 > 0
ORDER BY seed, id
"""
"""A statement by which most adapters were measured twice, with less the second time."""


def fill(registry: Registry, count: int, *, base: str = "tiny", start: int = 0) -> None:
    """Add so many adapters, a hundred versions a task; the first has the number `start`."""
    database = registry.workspace.database
    with database.read() as session:
        found = resolve_base(session, base)
        base_facts = (found.id, found.digest, found.parameters)
        # Numbers of rows: after those that are there, for the adapter with number 0.
        first = (
            _highest(session, tables.AdapterRow.id) + 1 - start,
            _highest(session, tables.ManifestRow.id) + 1 - start,
            _highest(session, tables.TaskRow.id) + 1 - start // VERSIONS,
        )
        newest = events.last(session)
        chain = _Chain(newest.seq if newest else 0, newest.hash if newest else events.FIRST_PREVIOUS)
    for outer in range(start, start + count, _COMMITTED):
        with database.write() as session:
            if session.get(tables.BlobRow, _CONFIG) is None:
                _write(session, {tables.BlobRow: [_blob(_CONFIG, 300)]})
            end = min(outer + _COMMITTED, start + count)
            for begin in range(outer, end, _BATCH):
                _write(session, _rows(range(begin, min(begin + _BATCH, end)), first, base_facts, chain))
            _finish(session)


def task_of(number: int) -> str:
    return f"task_{number // VERSIONS:06d}"


def name_of(number: int) -> str:
    return f"{task_of(number)}_v{number % VERSIONS + 1}_{_day(number):%Y%m%d}"


def digest_of(number: int) -> str:
    return hashlib.sha256(b"manifest %d" % number).hexdigest()


class _Chain:
    def __init__(self, seq: int, previous: str) -> None:
        self.seq, self.previous = seq, previous

    def next(self, at: datetime, subject: str, detail: dict[str, Any]) -> dict[str, Any]:
        self.seq += 1
        row: dict[str, Any] = {
            "seq": self.seq, "at": at, "actor": "crowd", "action": "adapter.registered",
            "subject_kind": "adapter", "subject": subject, "detail": canonical_json(detail).decode("ascii"),
            "seals": None, "previous": self.previous,
        }  # fmt: skip
        entry: Any = SimpleNamespace(**row)  # a record of the ORM's takes ten times as long
        self.previous = row["hash"] = events.event_hash(entry)
        return row


def _highest(session: Session, column: Any) -> int:
    return session.scalar(select(func.max(column))) or 0


def _day(number: int) -> date:
    return (START + timedelta(hours=number % 50_000)).date()


def _blob(digest: str, size: int) -> dict[str, Any]:
    return {"digest": digest, "size": size, "generation": 0, "state": "ready", "created_at": START}


def _rows(numbers: range, first: tuple[int, int, int], base: tuple[int, str, int], chain: _Chain) -> Rows:
    """Return the rows of adapters by table, in an order in which they can be inserted."""
    base_id, base_digest, parameters = base
    rows: Rows = {
        kind: [] for kind in (tables.TaskRow, tables.BlobRow, tables.ManifestRow, tables.ManifestFileRow)
    }
    rows |= {kind: [] for kind in (tables.AdapterRow, tables.AdapterTagRow, tables.EventRow)}
    for number in numbers:
        version = number % VERSIONS + 1
        own, files, task = first[0] + number, first[1] + number, first[2] + number // VERSIONS
        weights = hashlib.sha256(b"weights %d" % number).hexdigest()
        digest = digest_of(number)
        loss = None if number % 13 == 0 else (number * 7919 % 100_003) / 50_000
        at = START + timedelta(seconds=number)
        if version == 1:
            rows[tables.TaskRow].append({"id": task, "name": task_of(number)})
        rows[tables.BlobRow].append(_blob(weights, 5_000_000))
        rows[tables.ManifestRow].append({"id": files, "digest": digest, "size": 5_000_300})
        for path, size, sha256 in (
            ("adapter_config.json", 300, _CONFIG),
            ("adapters.safetensors", 5_000_000, weights),
        ):
            rows[tables.ManifestFileRow].append(
                {"manifest_id": files, "path": path, "size": size, "sha256": sha256, "blob": sha256}
            )
        rows[tables.AdapterRow].append(
            {
                "id": own, "task_id": task, "version": version, "date": _day(number), "name": name_of(number),
                "base_id": base_id, "manifest_id": files, "digest": digest,
                "method": "dora" if number % 10 == 0 else "lora", "rank": 4 << number % 4, "alpha": 16.0,
                "scale": 2.0, "layers": 16, "target_modules": ["self_attn.q_proj", "self_attn.v_proj"],
                "trainable_parameters": 100_000 + number % 1000, "total_parameters": parameters,
                "val_loss": loss, "iterations": 100 * (1 + number % 50), "dataset_id": None,
                "examples": 1000 + number % 977, "training": {"iters": 100},
                "parent_id": own - 1 if version % 5 != 1 else None, "note": None, "created_at": at,
                "created_by": f"user{number % 10}",
            }
        )  # fmt: skip
        tags = (("run", f"r{number // VERSIONS}"), ("team", f"t{number % TEAMS}"))
        rows[tables.AdapterTagRow] += [{"adapter_id": own, "key": key, "value": value} for key, value in tags]
        detail = {"digest": digest, "base": base_digest, "val_loss": loss}
        rows[tables.EventRow].append(chain.next(at, name_of(number), detail))
    return rows


def _write(session: Session, rows: Rows) -> None:
    for kind, values in rows.items():
        if values:
            session.connection().execute(insert(kind.__table__), values)


def _finish(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        for name in (kind.__tablename__ for kind in (tables.TaskRow, tables.ManifestRow, tables.AdapterRow)):
            session.connection().exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))"
            )
