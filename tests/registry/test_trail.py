"""What an audit finds, and what it only notes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from fusery.cli import graphs
from fusery.registry import Registry, tables


@pytest.fixture
def shipped(stocked: Registry, tmp_path: Path) -> Registry:
    stocked.bundles.materialize("course_rec@2", tmp_path / "out")
    return stocked


def test_names_cannot_break_out_of_a_drawing(stocked: Registry, make_adapter: Any) -> None:
    evil = 'a"]; end\n digraph x {} <script>'
    stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="course_rec", dataset=evil)
    graph = stocked.provenance.lineage("course_rec@3")
    assert len(list(graphs.mermaid(graph))) == 1 + len(graph.nodes) + len(graph.edges)
    assert "<script>" not in graphs.written(graph, "mermaid")
    assert len(list(graphs.dot(graph))) == 3 + len(graph.nodes) + len(graph.edges)


def test_damage_is_found(shipped: Registry) -> None:
    report = shipped.upkeep.audit()
    assert report.ok and (report.checked["adapter"], report.checked["bundle"]) == (2, 1)
    files = shipped.adapters.show("course_rec@2")["files"]
    [digest] = [file["sha256"] for file in files if file["path"] == "adapter_config.json"]
    path = shipped.workspace.store.local_path(digest)
    assert path is not None
    path.parent.chmod(0o755)
    path.rename(path.with_name("elsewhere"))
    assert {problem.code for problem in shipped.upkeep.audit().problems} == {"blob_missing"}
    assert shipped.upkeep.audit(("course_rec@1",)).ok, "only its own sources are checked"
    assert not shipped.upkeep.audit(("course_rec@2",)).ok
    path.with_name("elsewhere").rename(path)
    event, file = tables.EventRow, tables.ManifestFileRow
    with shipped.workspace.database.write() as session:
        session.execute(update(file).where(file.path == "adapter_config.json").values(size=1))
        session.execute(delete(event).where(event.seq == 2))
    # The chain has a gap, and what the entry had sealed is unknown now.
    expected = {"manifest_changed", "event_chain", "record_unsealed"}
    assert expected <= {problem.code for problem in shipped.upkeep.audit().problems}
    chain = shipped.upkeep.audit_chain()
    assert set(chain.checked) == {"event"} and [each.subject for each in chain.problems] == ["event 3"]


def test_unknown_files_of_the_store_are_noted(shipped: Registry) -> None:
    shipped.workspace.store.put_bytes(b"nobody refers to this")
    store = shipped.workspace.settings.home / "store"
    (store / "blobs" / "sha256" / "ab").mkdir(exist_ok=True)
    (store / "blobs" / "sha256" / "ab" / "run.sh").write_text("#!/bin/sh\n")
    (store / "link").symlink_to(store)
    report = shipped.upkeep.audit()
    assert report.ok
    assert any("unreferenced blob" in note for note in report.notes)
    [note] = [note for note in report.notes if "run.sh" in note]
    assert "blobs/sha256/ab/run.sh, link" in note


def test_a_changed_reference_is_found(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    place = shutil.copytree(tiny_base, tmp_path / "tiny")
    registry.bases.add(place, reference=True)
    assert registry.upkeep.audit().ok
    (place / "tokenizer.json").write_text("{}")
    assert [problem.code for problem in registry.upkeep.audit().problems] == ["reference_changed"]


def test_doctor_reports_the_source_of_each_setting(shipped: Registry) -> None:
    checks = {check.name: check for check in shipped.upkeep.doctor()}
    assert all(check.status != "problem" for check in checks.values())
    assert "default" in checks["setting.store_url"].detail
    assert "2 adapters" in checks["database"].detail
