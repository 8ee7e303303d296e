"""Which calibration a fuse takes: by what was asked for and what came, and by no clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hostile.forgery import forging
from made_calibrations import put_calibration
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.engine.arithmetic import F32
from fusery.registry.engine.calibration import Learned, Stored
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.records.calibrations import (
    Reading,
    choose_calibration,
    current_calibration,
    fetch_calibration,
    learned_with,
    record_calibration,
    recorded_calibration,
)
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import Digest, digest_bytes

MODULE = "model.layers.0.self_attn.q_proj"
ADAPTER = digest_bytes(b"adapter")


@pytest.fixture
def based(registry: Registry, tiny_base: Path) -> Registry:
    """A registry with the base `tiny`."""
    registry.bases.add(tiny_base, name="tiny")
    return registry


def put(registry: Registry, seed: int) -> str:
    return put_calibration(registry, "tiny", {MODULE: 128}, seed=seed)


def put_learned(registry: Registry, seed: int, number: float, adapter: Digest = ADAPTER) -> str:
    """Record what was learned with the calibration of a seed."""
    about = Learned(adapter, 1, 12, 99, digest_bytes(b"what was learned from"))
    numbers = np.full((4, 2), number, np.float32)
    return put_calibration(
        registry, "tiny", {MODULE: 128}, seed=seed, learned=(about, {MODULE: Stored(F32, numbers, numbers)})
    )


def current(registry: Registry) -> str | None:
    with registry.workspace.database.read() as session:
        found = current_calibration(session, resolve_base(session, "tiny"))
        return found.digest if found else None


def choose(registry: Registry, digest: str) -> str | None:
    with registry.workspace.database.write() as session:
        row = session.scalars(
            select(tables.CalibrationRow).where(tables.CalibrationRow.digest == digest)
        ).one()
        before = choose_calibration(session, row)
        return before.digest if before else None


def learned(registry: Registry, digest: str, adapter: Digest = ADAPTER) -> list[Digest]:
    with registry.workspace.database.read() as session:
        row = session.scalars(
            select(tables.CalibrationRow).where(tables.CalibrationRow.digest == digest)
        ).one()
    return learned_with(registry.workspace, adapter, row)


def test_it_is_the_newest_until_an_older_one_is_asked_for_and_until_another_comes(based: Registry) -> None:
    assert current(based) is None
    one, two, three = (put(based, seed) for seed in range(3))
    assert current(based) == three
    assert (choose(based, three), current(based)) == (None, three)
    assert (choose(based, one), current(based)) == (three, one)
    assert (choose(based, two), current(based)) == (one, two)
    assert (choose(based, three), current(based)) == (two, three)
    assert (choose(based, one), current(based)) == (three, one)
    for shown in (based.bases.show("tiny"), *based.bases.list()):
        assert [each.digest for each in shown.calibrations] == [two, three, one]
    own = put_learned(based, 1, 0.5)  # which serves one adapter, and is no newer calibration of the base
    assert current(based) == one
    assert [each.digest for each in based.bases.show("tiny").calibrations] == [two, three, one, own]
    four = put(based, 4)
    assert current(based) == four
    assert (choose(based, one), current(based)) == (four, one)
    told = [entry for entry in based.upkeep.log() if entry["action"] == "base.calibration_chosen"]
    assert [entry["detail"]["calibration"] for entry in told] == [one, two, three, one, one]
    assert based.upkeep.audit().ok


def test_where_they_are_all_new_the_same_one_is_taken(based: Registry, tmp_path: Path) -> None:
    one, two, three = (put(based, seed) for seed in range(3))
    choose(based, one)
    with Registry.open(tmp_path / "there") as there:
        there.init()
        based.exchange.push("tiny", tmp_path / "there")
        assert [each.digest for each in there.bases.show("tiny").calibrations] == [two, three, one]
        assert current(there) == one
        # Who has them already goes on with the own choice.
        choose(there, two)
        choose(based, three)
        based.exchange.push("tiny", tmp_path / "there")
        assert current(there) == two


def test_what_was_learned_is_known_by_the_texts_of_its_directions(based: Registry) -> None:
    one, two = put(based, 1), put(based, 2)
    first, second = put_learned(based, 1, 0.25), put_learned(based, 2, 0.5)
    third = put_learned(based, 1, 0.75)
    put_learned(based, 1, 1.0, digest_bytes(b"another adapter"))
    with forging(based) as session:
        for days, row in enumerate(session.scalars(select(tables.CalibrationRow))):
            row.created_at -= timedelta(days=days)
    assert learned(based, one) == [third, first]
    assert learned(based, two) == [second]
    assert learned(based, one, digest_bytes(b"nobody")) == []


@pytest.mark.parametrize("data", [None, b"", b"\xff" * 100, b"\x02" + bytes(7) + b"{}"], ids=str)
def test_one_that_cannot_be_read_counts_so_that_its_loss_is_told(based: Registry, data: bytes | None) -> None:
    one, two = put(based, 1), put(based, 2)
    made = put_learned(based, 1, 0.25)
    with based.workspace.database.read() as session:
        row = session.scalars(select(tables.CalibrationRow).where(tables.CalibrationRow.digest == made)).one()
        path = based.workspace.store.local_path(Digest(row.manifest.files[0].sha256))
    assert path is not None
    path.chmod(0o644)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    assert learned(based, one) == learned(based, two) == [made]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_calibration_is_known_by_what_it_was_made_from(stocked: Registry, tmp_path: Path) -> None:
    digest = put_calibration(stocked, "tiny", {MODULE: 128})
    workspace, reading = stocked.workspace, Reading("texts 0", digest_bytes(b"texts 0"), 4)
    other = tiny_models.make_base(tmp_path / "other", seed=7)
    stocked.bases.add(other, name="other")
    with workspace.database.write() as session:
        base, second = resolve_base(session, "tiny"), resolve_base(session, "other")
        assert base.name != second.name
        row = session.scalars(select(tables.CalibrationRow)).one()
        found = record_calibration(workspace, session, row.manifest, base, reading, tokens=1, engine="")
        assert found == (row, False)
        blob = Digest(row.manifest.files[0].sha256)
    known = recorded_calibration(workspace, base, reading)
    assert known is not None and (known.digest, known.created, known.tokens) == (digest, False, 17)
    assert recorded_calibration(workspace, base, reading, among=[digest]) == known
    assert recorded_calibration(workspace, base, reading, among=[]) is None
    assert recorded_calibration(workspace, second, reading) is None
    for change in ({"rank": 5}, {"prompts_digest": digest_bytes(b"")}, {"adapter": digest}):
        assert recorded_calibration(workspace, base, replace(reading, **change)) is None  # type: ignore[arg-type]
    [told] = stocked.upkeep.log(action="base.calibrated")
    assert told.detail["calibration"] == digest and "adapter" not in told.detail
    assert fetch_calibration(workspace, digest, tmp_path / "file", base=base).is_file()
    fetch_calibration(workspace, digest, tmp_path / "again")
    with pytest.raises(BadInputError):
        fetch_calibration(workspace, digest, tmp_path / "wrong", base=second)
    with pytest.raises(UnknownReferenceError):
        fetch_calibration(workspace, "0" * 64, tmp_path / "none", base=base)
    with workspace.database.write() as session:  # the same model in other files
        for name in ("tiny", "other"):
            alike = resolve_base(session, name)
            alike.content = "c" * 64
    fetch_calibration(workspace, digest, tmp_path / "alike", base=alike)
    path = workspace.store.local_path(blob)
    assert path is not None
    path.unlink()
    assert recorded_calibration(workspace, base, reading) is None
