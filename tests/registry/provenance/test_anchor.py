"""Anchors: a log that was cut off, rewritten, or is another registry's is found from outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from signing_keys import Pair
from sqlalchemy import delete, select
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.dsse import BadSignatureError
from fusery.registry.errors import AlreadyExistsError, CheckFailedError
from fusery.registry.provenance.anchor import Anchor, read_anchor, write_anchor
from fusery.registry.provenance.sign import no_passphrase
from fusery.registry.upkeep.report import Report


@pytest.fixture
def registry(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """A registry with a log of some entries."""
    with Registry(open_workspace(tmp_path / "home", database_url)) as opened:
        opened.init()
        for number in range(8):
            say(opened, f"thing {number}")
        yield opened


def say(registry: Registry, what: str) -> None:
    with registry.workspace.database.write() as session:
        events.record(session, action="records.changed", kind="test", subject=what, detail={}, actor="tester")


def anchored(registry: Registry, key: Pair | None, place: Path) -> Path:
    _, data = registry.trust.anchor(key.private if key else None, no_passphrase)
    place.write_bytes(data)
    return place


def audit(registry: Registry, anchor: Path, key: Pair | None = None) -> Report:
    return registry.upkeep.audit_chain(anchors=[anchor], keys=[key.public] if key else [])


def codes(report: Report) -> list[str]:
    return [problem.code for problem in report.problems]


def rewrite(registry: Registry, first: int) -> None:
    """Rewrite the log from an entry on: a valid chain of other entries."""
    with registry.workspace.database.write() as session:
        rows = session.scalars(
            select(tables.EventRow).where(tables.EventRow.seq >= first).order_by(tables.EventRow.seq)
        ).all()
        previous = rows[0].previous
        for row in rows:
            row.actor = "somebody else"
            row.previous = previous
            row.hash = previous = events.event_hash(row)


def cut(registry: Registry, after: int) -> None:
    with registry.workspace.database.write() as session:
        session.execute(delete(tables.EventRow).where(tables.EventRow.seq > after))


def test_an_honest_log_passes(registry: Registry, key: Pair, tmp_path: Path) -> None:
    anchor = anchored(registry, key, tmp_path / "head.json")
    say(registry, "later")
    upkeep = registry.upkeep
    for report in (upkeep.audit_chain(), upkeep.audit(), upkeep.audit()):
        assert report.ok and report.anchored is False
        assert [note for note in report.to_dict()["notes"] if "fusery sign --log" in note]
    for report in (audit(registry, anchor, key), upkeep.audit(anchors=[anchor], keys=[key.public])):
        assert report.ok and report.anchored is True and report.notes == []
        assert report.checked["anchor"] == 1
    assert any("was not verified" in note for note in audit(registry, anchor).notes)


def test_anchor_is_written_once(tmp_path: Path) -> None:
    anchor = Anchor("registry", 3, "0" * 64, "2026-01-05", "2026-01-06")
    path = tmp_path / "head.json"
    written = write_anchor(anchor, b"one", path)
    assert (written.path, written.seq, path.read_bytes()) == (path, 3, b"one")
    with pytest.raises(AlreadyExistsError):
        write_anchor(anchor, b"two", path)
    write_anchor(anchor, b"two", path, force=True)
    assert path.read_bytes() == b"two"


def test_a_log_that_was_cut_off_is_found(registry: Registry, key: Pair, tmp_path: Path) -> None:
    anchor = anchored(registry, key, tmp_path / "head.json")
    last = read_anchor(anchor).seq
    cut(registry, last - 3)
    assert registry.upkeep.audit_chain().ok, "without an anchor nobody can tell"
    (problem,) = audit(registry, anchor, key).problems
    assert (problem.code, problem.subject) == ("log_cut", f"event {last}")
    assert f"ends at entry {last - 3}" in problem.message
    assert codes(registry.upkeep.audit(anchors=[anchor])) == ["log_cut"]
    for number in range(9):
        say(registry, f"another story {number}")
    assert registry.upkeep.audit_chain().ok
    assert codes(audit(registry, anchor, key)) == ["log_rewritten"]


@pytest.mark.parametrize("first", [1, 4])
def test_a_log_that_was_rewritten_is_found(registry: Registry, key: Pair, tmp_path: Path, first: int) -> None:
    anchor = anchored(registry, key, tmp_path / "head.json")
    rewrite(registry, first)
    assert codes(registry.upkeep.audit_chain()) == [], "without an anchor nobody can tell"
    assert codes(audit(registry, anchor, key)) == ["log_rewritten"]
    wanted = read_anchor(anchor)
    with registry.workspace.database.write() as session:
        session.scalars(
            select(tables.EventRow).where(tables.EventRow.seq == wanted.seq)
        ).one().hash = wanted.hash
    # The hash chain reveals an entry of which only the hash is right.
    assert "event_chain" in (found := codes(audit(registry, anchor, key))) and "log_rewritten" not in found


def coded(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_foreign_changed_and_invalid_anchors_are_refused(
    registry: Registry, key: Pair, stranger: Pair, tmp_path: Path
) -> None:
    anchor = anchored(registry, key, tmp_path / "head.json")
    whole = anchor.read_bytes()
    document = json.loads(whole)
    said = json.loads(base64.b64decode(document["payload"]))

    def changed(**change: Any) -> Path:
        anchor.write_text(json.dumps({**document, "payload": coded({**said, **change})}))
        return anchor

    assert codes(audit(registry, changed(registry="another"))) == ["anchor_foreign"]
    for change in ({"seq": 1}, {"hash": "0" * 64}, {"made_at": "2020-01-01T00:00:00+00:00"}):
        with pytest.raises(BadSignatureError) as caught:
            audit(registry, changed(**change), key)
        assert caught.value.hint is None, "it is an anchor"
    for signer in (stranger, None):
        with pytest.raises(BadSignatureError) as caught:
            audit(registry, anchored(registry, signer, tmp_path / "other.json"), key)
        assert caught.value.hint is None, "it is an anchor"
    for content in (b"", b"{}", b"[]", b'{"signatures": [1]}', b"x" * (2 << 20), whole[:-30]):
        anchor.write_bytes(content)
        with pytest.raises(BadSignatureError) as caught:
            audit(registry, anchor, key)
        assert caught.value.hint == "fusery sign --log -o FILE writes one"
    for name, value in (("seq", True), ("seq", 1 << 70), ("hash", "x"), ("at", "now"), ("format", 2)):
        with pytest.raises(BadSignatureError) as caught:
            audit(registry, changed(**{name: value}))
        assert caught.value.hint == "fusery sign --log -o FILE writes one"


def test_an_anchor_of_a_damaged_log_is_not_made(registry: Registry, key: Pair) -> None:
    with registry.workspace.database.write() as session:
        row = session.scalars(select(tables.EventRow).order_by(tables.EventRow.seq.desc()).limit(1)).one()
        row.actor = "somebody else"
    with pytest.raises(CheckFailedError):
        registry.trust.anchor(key.private, no_passphrase)
