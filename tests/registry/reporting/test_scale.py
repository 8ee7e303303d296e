"""A section costs what its task has, and not what the registry has."""

from __future__ import annotations

from pathlib import Path

import large_registry
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.reporting.task import MOST_OF_A_KIND, task_section


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
