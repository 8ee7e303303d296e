"""Audits against anchors, and what an audit says of a changed log and of files that no record has."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from signing_keys import Pair
from sqlalchemy import delete, text, update

from fusery.registry import Registry, tables
from fusery.registry.provenance.anchor import newest_anchor
from fusery.registry.provenance.sign import no_passphrase
from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROW, NOW = tables.EventRow, datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture
def log(sqlite_registry: Registry) -> Registry:
    """A registry whose log has three entries."""
    for name in ("ann", "bob"):
        sqlite_registry.tokens.create(name, "publisher")
    return sqlite_registry


def anchor(registry: Registry, place: Path, key: Pair | None = None) -> Path:
    _, data = registry.trust.anchor(key.private if key else None, no_passphrase)
    place.write_bytes(data)
    return place


def test_whole_log_has_notes_about_its_anchors(log: Registry, key: Pair, tmp_path: Path) -> None:
    unsigned, signed = anchor(log, tmp_path / "unsigned"), anchor(log, tmp_path / "signed", key)
    log.tokens.create("eve", "publisher")
    for anchors, keys, notes in (
        ([], [], [""]), ([unsigned], [], ["unsigned"]), ([signed, unsigned], [], ["signed", "unsigned"]),
        ([signed], [key.public], []),
    ):  # fmt: skip
        chain = log.upkeep.audit_chain(anchors=anchors, keys=keys)
        for report in (chain, log.upkeep.audit(anchors=anchors, keys=keys)):
            assert report.ok and report.anchored is bool(anchors)
            assert report.checked["anchor"] == len(anchors)
            assert len(report.notes) == len(notes)
            assert all(name in note for name, note in zip(notes, report.notes, strict=True))


def test_log_that_differs_from_its_anchor_is_reported(log: Registry, tmp_path: Path) -> None:
    place, seq = anchor(log, tmp_path / "anchor"), newest_anchor(log.workspace).seq
    log.tokens.create("eve", "publisher")
    with log.workspace.database.write() as session:
        session.execute(update(ROW).where(ROW.seq == seq).values(hash="0" * 64))
    found = [(problem.code, problem.subject) for problem in log.upkeep.audit(anchors=[place]).problems]
    assert ("log_rewritten", f"event {seq}") in found and ("event_chain", f"event {seq}") in found
    for where, said in (
        (ROW.seq == seq, f"entry {seq} is gone"),
        (ROW.seq >= seq, f"ends at entry {seq - 1}"),
    ):
        with log.workspace.database.write() as session:
            session.execute(delete(ROW).where(where))
        report = log.upkeep.audit(anchors=[place])
        [problem] = [problem for problem in report.problems if problem.code == "log_cut"]
        assert problem.subject == f"event {seq}" and said in problem.message
    with log.workspace.database.write() as session:
        session.execute(text("UPDATE registry SET store_id = 'other'"))
    [foreign] = log.upkeep.audit_chain(anchors=[place]).problems
    assert (foreign.code, foreign.subject) == ("anchor_foreign", "anchor")


@on_sqlite
def test_files_that_no_record_has_are_noted(stocked: Registry, tmp_path: Path) -> None:
    store = stocked.workspace.store
    assert not any("store" in note or "blob" in note for note in stocked.upkeep.audit().notes)
    root = stocked.workspace.settings.home / "store"
    (root / "stray\n").touch()
    (store.staging_folder or root).joinpath("left.part").touch()
    missing, longer = digest_bytes(b"missing"), digest_bytes(b"longer")
    (tmp_path / "longer").write_bytes(b"longer")
    store.put_file(tmp_path / "longer", expected=FileEntry("longer", 6, longer), generation=0)
    with stocked.workspace.database.write() as session:
        for digest in (missing, longer):
            session.add(tables.BlobRow(digest=digest, size=7, generation=0, state="ready", created_at=NOW))
    report = stocked.upkeep.audit()
    assert report.ok
    for parts in (
        [missing, "missing"],
        [longer, "6 bytes", "7"],
        ["1 unref", "6 B"],
        [repr("stray\n")],
        ["part file"],
    ):
        assert any(all(part in note for part in parts) for note in report.notes), parts


@on_sqlite
def test_yanks_of_other_records_are_noted(stocked: Registry, tmp_path: Path) -> None:
    twin = stocked.adapters.register(tmp_path / "first", base="tiny", task="twin").name
    stocked.adapters.yank("course_rec@1", reason="leaked")
    [note] = [note for note in stocked.upkeep.audit().notes if "leaked" in note]
    assert note.startswith(f"{twin}: ")
    assert stocked.upkeep.audit(("course_rec@1",)).notes == []
