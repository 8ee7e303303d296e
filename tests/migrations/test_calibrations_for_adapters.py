"""To 0019 and back: a calibration that serves all adapters stays, with its seal, and what was learned for one goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from database_facts import snapshot

from fusery.registry import Registry, tables
from fusery.registry.database import schema
from fusery.registry.records.calibrations import Reading, record_calibration
from fusery.registry.records.references import resolve_base
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace
from fusery.storage.digest import digest_bytes

BEFORE = "0018"


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    """A registry with a base, on each kind of database."""
    settings = Settings(home=tmp_path / "home", database_url=database_url, user="tester")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.bases.add(tiny_models.make_base(tmp_path / "base", layers=1), name="tiny")
        yield registry


def calibrate(registry: Registry, adapter: str | None) -> str:
    """Record a calibration whose files are the base's own: what they hold is nothing to the database."""
    digest = digest_bytes(str(adapter).encode())
    with registry.workspace.database.write() as session:
        base = resolve_base(session, "tiny")
        manifest = tables.Manifest(digest=digest, size=0)
        session.add(manifest)
        session.flush()
        reading = Reading("built-in", digest_bytes(b"texts"), 32, adapter)
        row, created = record_calibration(
            registry.workspace, session, manifest, base, reading, tokens=9, engine="mlx"
        )
        assert created
        return row.digest


def newest(registry: Registry, adapter: str | None) -> str | None:
    with registry.workspace.database.read() as session:
        made = resolve_base(session, "tiny").calibrations
        return next((row.digest for row in reversed(made) if row.adapter == adapter), None)


def test_up_and_down(made: Registry) -> None:
    database = made.workspace.database
    own = digest_bytes(b"an adapter")
    first = calibrate(made, None)
    whole = snapshot(database)
    schema.downgrade(database, BEFORE)
    schema.upgrade(database)
    assert snapshot(database) == whole
    second = calibrate(made, own)
    assert (newest(made, None), newest(made, own), newest(made, digest_bytes(b"another"))) == (
        first,
        second,
        None,
    )
    schema.downgrade(database, BEFORE)
    schema.upgrade(database)
    # A version that knows of no such calibration would take it for every adapter.
    assert (newest(made, None), newest(made, own)) == (first, None)
    assert made.upkeep.audit_chain().ok
