"""Lineage and audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from tampered_database import unguarded

from fusery.cli import graphs
from fusery.registry import Registry, tables
from fusery.registry.errors import UnknownReferenceError


@pytest.fixture
def shipped(stocked: Registry, tmp_path: Path) -> Registry:
    stocked.bundles.materialize("course_rec@2", tmp_path / "out")
    return stocked


def edges(registry: Registry, reference: str, **directions: bool) -> set[tuple[str, str, str]]:
    document = registry.provenance.lineage(reference, **directions).to_dict()
    kinds = {node["id"]: node["kind"] for node in document["nodes"]}
    return {(kinds[edge["from"]], edge["relation"], kinds[edge["to"]]) for edge in document["edges"]}


WHOLE = {
    ("adapter", "trained-on-base", "base"),
    ("adapter", "trained-on-data", "dataset"),
    ("adapter", "continued-from", "adapter"),
    ("fused", "fused-from-adapter", "adapter"),
    ("bundle", "packed-from", "fused"),
}


def test_up_and_down_from_an_adapter(shipped: Registry) -> None:
    assert edges(shipped, "course_rec@2") == WHOLE


def test_up_only(shipped: Registry) -> None:
    assert {edge[0] for edge in edges(shipped, "course_rec@2", down=False)} == {"adapter"}


def test_down_from_the_base_reaches_what_was_shipped(shipped: Registry) -> None:
    found = edges(shipped, "tiny", up=False)
    assert ("bundle", "packed-from", "fused") in found
    assert ("adapter", "trained-on-base", "base") in found


def test_a_fused_model_is_found_by_key_and_by_digest(shipped: Registry) -> None:
    fused = shipped.fused.fuse("course_rec@2")
    for reference in (fused["key"][:10], fused["digest"][:10]):
        assert shipped.provenance.lineage(reference).root.startswith("fused:")


def test_nothing_known(shipped: Registry) -> None:
    with pytest.raises(UnknownReferenceError):
        shipped.provenance.lineage("nothing@1")


def test_every_edge_joins_two_nodes(shipped: Registry) -> None:
    document = shipped.provenance.lineage("tiny").to_dict()
    ids = [node["id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids)
    assert all(edge["from"] in ids and edge["to"] in ids for edge in document["edges"])


def test_names_cannot_break_out_of_a_drawing(stocked: Registry, make_adapter: Any) -> None:
    evil = 'a"]; end\n digraph x {} <script>'
    stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="course_rec", dataset=evil)
    graph = stocked.provenance.lineage("course_rec@3")
    assert len(list(graphs.mermaid(graph))) == 1 + len(graph.nodes) + len(graph.edges)
    assert "<script>" not in graphs.written(graph, "mermaid")
    assert len(list(graphs.dot(graph))) == 3 + len(graph.nodes) + len(graph.edges)


def test_all_is_well(shipped: Registry) -> None:
    report = shipped.upkeep.audit()
    assert report.to_dict().keys() >= {"ok", "checked", "problems"}
    assert report.ok
    assert report.checked["adapter"] == 2
    assert report.checked["bundle"] == 1


def blob_path(registry: Registry, reference: str, name: str) -> Path:
    file = next(file for file in registry.adapters.show(reference)["files"] if file["path"] == name)
    path = registry.workspace.store.local_path(file["sha256"])
    assert path is not None
    path.chmod(0o644)
    path.parent.chmod(0o755)
    return path


def test_a_flipped_bit_is_found_and_named(shipped: Registry) -> None:
    path = blob_path(shipped, "course_rec@1", "adapters.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    [problem] = shipped.upkeep.audit().problems
    assert problem.code == "blob_corrupt"
    assert problem.subject == "course_rec_v1_20260115: adapters.safetensors"


def test_a_missing_blob_is_found(shipped: Registry) -> None:
    blob_path(shipped, "course_rec@1", "adapter_config.json").unlink()
    assert {problem.code for problem in shipped.upkeep.audit().problems} == {"blob_missing"}


def test_one_reference_checks_what_it_came_from_and_no_more(shipped: Registry) -> None:
    blob_path(shipped, "course_rec@2", "adapter_config.json").unlink()
    assert shipped.upkeep.audit(("course_rec@1",)).ok
    assert not shipped.upkeep.audit(("course_rec@2",)).ok


def test_a_changed_row_is_found(shipped: Registry) -> None:
    with shipped.workspace.database.write() as session:
        session.execute(
            update(tables.ManifestFile)
            .where(tables.ManifestFile.path == "adapter_config.json")
            .values(size=1)
        )
    assert "manifest_changed" in {problem.code for problem in shipped.upkeep.audit().problems}


def test_a_changed_event_is_found(shipped: Registry) -> None:
    with shipped.workspace.database.write() as session, unguarded(session):
        session.execute(update(tables.Event).where(tables.Event.seq == 2).values(actor="mallory"))
    assert [problem.subject for problem in shipped.upkeep.audit().problems] == ["event 2"]


def test_a_removed_event_is_found(shipped: Registry) -> None:
    with shipped.workspace.database.write() as session, unguarded(session):
        session.execute(delete(tables.Event).where(tables.Event.seq == 2))
    # The chain has a gap, and what the entry had sealed is unknown now.
    codes = [problem.code for problem in shipped.upkeep.audit().problems]
    assert codes[0] == "event_chain"
    assert set(codes) == {"event_chain", "record_unsealed"}


def test_garbage_is_a_note_and_no_problem(shipped: Registry) -> None:
    shipped.workspace.store.put_bytes(b"nobody refers to this")
    report = shipped.upkeep.audit()
    assert report.ok
    assert any("belong to nothing" in note for note in report.notes)


def test_stray_file_in_the_store_is_reported(shipped: Registry) -> None:
    store = shipped.workspace.settings.home / "store"
    (store / "blobs" / "sha256" / "ab").mkdir(exist_ok=True)
    (store / "blobs" / "sha256" / "ab" / "run.sh").write_text("#!/bin/sh\n")
    (store / "link").symlink_to(store)
    report = shipped.upkeep.audit()
    assert report.ok
    [note] = [note for note in report.notes if "run.sh" in note]
    assert "blobs/sha256/ab/run.sh, link" in note


def test_a_changed_reference_is_found(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    place = shutil.copytree(tiny_base, tmp_path / "tiny")
    registry.bases.add(place, reference=True)
    assert registry.upkeep.audit().ok
    (place / "tokenizer.json").write_text("{}")
    assert [problem.code for problem in registry.upkeep.audit().problems] == ["reference_changed"]


def test_doctor_says_where_each_value_comes_from(shipped: Registry) -> None:
    checks = {check.name: check for check in shipped.upkeep.doctor()}
    assert all(check.status != "problem" for check in checks.values())
    assert "default" in checks["setting.store_url"].detail
    assert "2 adapters" in checks["database"].detail


def test_a_log_that_lost_its_guards_is_found(shipped: Registry) -> None:
    with shipped.workspace.database.write() as session:
        where = " ON event" if session.get_bind().dialect.name == "postgresql" else ""
        session.execute(text(f"DROP TRIGGER event_no_update{where}"))
    assert [(p.code, p.subject) for p in shipped.upkeep.audit().problems] == [
        ("log_unprotected", "trigger event_no_update")
    ]


def test_the_chain_alone(shipped: Registry) -> None:
    report = shipped.upkeep.audit_chain()
    assert report.ok
    assert set(report.checked) == {"event"} and report.checked["event"] > 3
    with shipped.workspace.database.write() as session, unguarded(session):
        session.execute(delete(tables.Event).where(tables.Event.seq == 2))
    assert [problem.subject for problem in shipped.upkeep.audit_chain().problems] == ["event 3"]
