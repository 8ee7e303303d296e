"""A section costs what its task has, and not what the registry has."""

from __future__ import annotations

from pathlib import Path

import crowd
import pytest
import queryplans
from sqlalchemy import select, text

from fusery.registry import Registry, tables
from fusery.registry.reporting.task import task_section

MANY = 20_000
"""Adapters, as in `tests/registry/test_scale.py`."""


@pytest.mark.slow
def test_a_section_reads_no_whole_table(registry: Registry, tiny_base: Path) -> None:
    registry.bases.add(tiny_base, name="tiny", reference=True)
    crowd.fill(registry, MANY)
    database = registry.workspace.database
    with database.write() as session:
        session.execute(text(crowd.AMENDED))
        if database.dialect == "postgresql":
            session.execute(text("ANALYZE"))  # as autovacuum does by itself
    with database.read() as session:
        name = crowd.task_of(MANY // 2)
        task = session.scalars(select(tables.Task).where(tables.Task.name == name)).one()
        adapter = session.scalars(
            select(tables.Adapter).where(tables.Adapter.task_id == task.id, tables.Adapter.version == 7)
        ).one()
        for only in (None, adapter):
            with queryplans.recorded() as queries:
                section = task_section(session, task, only)
            assert section.facts["versions_total"] == crowd.VERSIONS
            assert len(queries) > 10
            assert queryplans.whole_tables(database, queries) == []
