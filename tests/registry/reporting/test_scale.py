"""A section costs what its task has, and not what the registry has."""

from __future__ import annotations

from pathlib import Path

import large_registry
import pytest
import query_plans
from sqlalchemy import select, text

from fusery.registry import Registry, tables
from fusery.registry.reporting.task import MOST_OF_A_KIND, task_section

MANY = 20_000
"""Adapters, as in `tests/registry/test_scale.py`."""


@pytest.mark.slow
def test_a_section_reads_no_whole_table(registry: Registry, tiny_base: Path) -> None:
    registry.bases.add(tiny_base, name="tiny", reference=True)
    large_registry.fill(registry, MANY)
    database = registry.workspace.database
    with database.write() as session:
        session.execute(text(large_registry.AMENDED))
        session.execute(text(large_registry.EVALUATED))
    with database.read() as session:
        name = large_registry.task_of(MANY // 2)
        task = session.scalars(select(tables.Task).where(tables.Task.name == name)).one()
        adapter = session.scalars(
            select(tables.Adapter).where(tables.Adapter.task_id == task.id, tables.Adapter.version == 7)
        ).one()
        for only in (None, adapter):
            with query_plans.recorded() as queries:
                section = task_section(session, task, only)
            assert section.facts["versions_total"] == large_registry.VERSIONS
            assert len(queries) > 10
            assert query_plans.whole_tables(database, queries) == []


def test_a_version_that_led_to_very_many_is_drawn_with_the_nearest(
    registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    registry.bases.add(tiny_base, name="tiny", reference=True)
    large_registry.fill(registry, 200)
    with registry.workspace.database.write() as session:
        first, *others = session.scalars(select(tables.Adapter).order_by(tables.Adapter.id))
        for each in others:
            each.parent_id = first.id
        name = first.name
    with registry.workspace.database.read() as session:
        adapter = session.scalars(select(tables.Adapter).where(tables.Adapter.name == name)).one()
        graph = task_section(session, adapter.task, adapter).graph
    assert graph.cut and graph.left_out == {"adapter": 199 - MOST_OF_A_KIND}
    assert len(graph.nodes) == 2 + MOST_OF_A_KIND
    place = tmp_path / "report.html"
    registry.provenance.report(name, html=place)
    text = place.read_text(encoding="utf-8")
    assert "and 189 more adapters" in text and "--complete" in text
