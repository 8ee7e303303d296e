"""What an audit finds, and what it only notes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from tampered_database import unguarded

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


def damage(registry: Registry, statement: Any) -> None:
    with registry.workspace.database.write() as session, unguarded(session):
        session.execute(statement)


def remove_blob(registry: Registry, reference: str = "course_rec@1") -> None:
    files = registry.adapters.show(reference)["files"]
    [digest] = [file["sha256"] for file in files if file["path"] == "adapter_config.json"]
    path = registry.workspace.store.local_path(digest)
    assert path is not None
    path.parent.chmod(0o755)
    path.unlink()


def drop_guard(registry: Registry) -> None:
    with registry.workspace.database.write() as session:
        session.execute(text("DROP TRIGGER event_no_update"))


EVENT, FILE = tables.Event, tables.ManifestFile
CONFIG = FILE.path == "adapter_config.json"
DAMAGE: dict[str, tuple[Callable[[Registry], None], set[str]]] = {
    "blob removed": (remove_blob, {"blob_missing"}),
    "row changed": (
        lambda registry: damage(registry, update(FILE).where(CONFIG).values(size=1)),
        {"manifest_changed"},
    ),
    "event changed": (
        lambda registry: damage(registry, update(EVENT).where(EVENT.seq == 2).values(actor="mallory")),
        {"event_chain"},
    ),
    # The chain has a gap, and what the entry had sealed is unknown now.
    "event removed": (
        lambda registry: damage(registry, delete(EVENT).where(EVENT.seq == 2)),
        {"event_chain", "record_unsealed"},
    ),
    "guard dropped": (drop_guard, {"log_unprotected"}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(what: str, shipped: Registry) -> None:
    report = shipped.upkeep.audit()
    assert report.ok and (report.checked["adapter"], report.checked["bundle"]) == (2, 1)
    spoil, codes = DAMAGE[what]
    spoil(shipped)
    assert codes <= {problem.code for problem in shipped.upkeep.audit().problems}
    chain = shipped.upkeep.audit_chain()
    assert set(chain.checked) == {"event"} and chain.ok is codes.isdisjoint(
        {"event_chain", "log_unprotected"}
    )


def test_one_reference_checks_its_sources_and_no_more(shipped: Registry) -> None:
    remove_blob(shipped, "course_rec@2")
    assert shipped.upkeep.audit(("course_rec@1",)).ok
    assert not shipped.upkeep.audit(("course_rec@2",)).ok


def test_unknown_files_of_the_store_are_noted(shipped: Registry) -> None:
    shipped.workspace.store.put_bytes(b"nobody refers to this")
    store = shipped.workspace.settings.home / "store"
    (store / "blobs" / "sha256" / "ab").mkdir(exist_ok=True)
    (store / "blobs" / "sha256" / "ab" / "run.sh").write_text("#!/bin/sh\n")
    (store / "link").symlink_to(store)
    report = shipped.upkeep.audit()
    assert report.ok
    assert any("belong to nothing" in note for note in report.notes)
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
