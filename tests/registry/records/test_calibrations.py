"""Calibrations on record: found by what they were made from, kept once, and refused for another base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from made_calibrations import put_calibration
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.records.calibrations import (
    Reading,
    fetch_calibration,
    known_calibration,
    record_calibration,
)
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import Digest, digest_bytes

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MODULES = {"model.layers.0.self_attn.q_proj": 128}


def test_a_calibration_is_known_by_what_it_was_made_from(stocked: Registry, tmp_path: Path) -> None:
    digest = put_calibration(stocked, "tiny", MODULES)
    workspace, reading = stocked.workspace, Reading("texts 0", digest_bytes(b"texts 0"), 4)
    other = tiny_models.make_base(tmp_path / "other", seed=7)
    stocked.bases.add(other, name="other")
    with workspace.database.write() as session:
        base, second = resolve_base(session, "tiny"), resolve_base(session, "other")
        assert base.name != second.name
        row = session.scalars(select(tables.Calibration)).one()
        found = record_calibration(workspace, session, row.manifest, base, reading, tokens=1, engine="")
        assert found == (row, False)
        blob = Digest(row.manifest.files[0].sha256)
    known = known_calibration(workspace, base, reading)
    assert known is not None and (known.digest, known.created, known.tokens) == (digest, False, 17)
    assert known_calibration(workspace, base, reading, among=[digest]) == known
    assert known_calibration(workspace, base, reading, among=[]) is None
    assert known_calibration(workspace, second, reading) is None
    for change in ({"rank": 5}, {"prompts_digest": digest_bytes(b"")}, {"adapter": digest}):
        assert known_calibration(workspace, base, replace(reading, **change)) is None  # type: ignore[arg-type]
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
    assert known_calibration(workspace, base, reading) is None
