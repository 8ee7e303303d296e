"""What relies on a lost blob is named, whatever else is wrong with its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from full_registry import fill
from sqlalchemy import select
from tampered_database import forced

from fusery.registry import Registry, tables
from fusery.registry.workspace import Workspace


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("update fused_extra set weight = '0.5s'", "row 1 of fused"),
        ("update fused set created_at = 'soon'", "row 1 of fused"),
        ("update fused set recipe = '[1]'", "row 1 of fused"),
    ],
)
def test_an_audit_names_a_lost_blob_and_a_value_that_is_none(
    sqlite_registry: Registry, tiny_base: Path, tmp_path: Path, change: str, named: str
) -> None:
    registry = sqlite_registry
    fill(registry, tiny_base, tmp_path / "files")
    with registry.workspace.database.read() as session:
        first = session.scalars(
            select(tables.Adapter).where(tables.Adapter.name.like("course_rec_v1%"))
        ).one()
        lost = next(file.entry.sha256 for file in first.manifest.files if file.path == "adapters.safetensors")
    path = registry.workspace.store.local_path(lost)
    assert path is not None
    path.unlink()
    settings = registry.workspace.settings
    registry.close()
    with forced(tmp_path / "database" / "fusery.db") as connection:
        connection.execute(change)
    with Registry(Workspace(settings)) as again:
        problems = again.upkeep.audit_all().problems
    missing = next(each for each in problems if each.code == "blob_missing")
    assert f"fused {named}" in missing.dependants
    assert any(name.startswith("adapter course_rec_v1") for name in missing.dependants)
    assert any("fused" in str(each.subject) for each in problems if each.code != "blob_missing")
