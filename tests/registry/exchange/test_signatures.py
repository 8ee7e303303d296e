"""Signatures that are made after the first copy: they come with the next one, without the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from signing_keys import write_pair
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.fusion.fuse import FuseRequest

ONE = "course_rec@1"


@pytest.fixture
def key(stocked: Registry, other: Registry, other_home: Path) -> str:
    """The key of a published fused artifact that is in both registries."""
    made = stocked.fused.fuse(ONE, FuseRequest("keep", accept_loss=True), publish="full")
    stocked.exchange.push(ONE, other_home, fused=True)
    return str(made["key"])


@pytest.mark.parametrize("kind", ["adapter", "fused"])
def test_a_later_signature_comes_later(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, key: str, kind: str
) -> None:
    subject = {"adapter": ONE, "fused": key}[kind]
    number = stocked.trust.sign(subject, write_pair(tmp_path, "ann").signing()).key_id
    for dry_run in (True, False):
        done = stocked.exchange.push(ONE, other_home, fused=True, dry_run=dry_run)
        changed = [(item.kind, item.state, item.bytes) for item in done.items_ if item.state != "present"]
        assert changed == [(kind, "completed", 0)]
    event = other.upkeep.log()[-1]
    assert (event["action"], event["detail"]["added"]) == (f"{kind}.received", ["signature"])
    with other.workspace.database.read() as session:
        assert [row.key_id for row in session.scalars(select(tables.Signature))] == [number]
    again = stocked.exchange.push(ONE, other_home, fused=True)
    assert {item.state for item in again.items_} == {"present"}
    assert other.upkeep.audit().ok


def test_a_signature_that_cannot_be_one_is_not_missing(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, key: str
) -> None:
    ann, eve = write_pair(tmp_path, "ann"), write_pair(tmp_path, "eve")
    trusted = other.trust.add_key("ann", ann.public, ["*#prod"])
    stocked.trust.sign(ONE, eve.signing())
    with stocked.workspace.database.write() as session:
        session.scalars(select(tables.Signature)).one().key_id = trusted["key_id"]
    assert {item.state for item in stocked.exchange.push(ONE, other_home).items_} == {"present"}
    assert other.trust.signatures(ONE)["signatures"] == []
