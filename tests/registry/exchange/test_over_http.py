"""Pushing to a server and pulling from it: what comes is what comes by a database, and an interruption costs what was under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from page_server import pages_of
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.exchange import over_http
from fusery.registry.exchange.package import values_of
from fusery.web.doors import Proxies, TeamDoor

del over_http


@dataclass(frozen=True)
class Served:
    """A registry behind a server, and a token for it."""

    registry: Registry
    home: Path
    url: str
    token: str


@pytest.fixture
def served(other: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The other registry, behind a server; the token of a publisher is in the environment."""
    token = other.tokens.create("ci", role="publisher").secret
    monkeypatch.setenv("FUSERY_TOKEN", token)
    with pages_of(other, TeamDoor(other, Proxies())) as url:
        yield Served(other, other_home, url, token)


def contents(registry: Registry) -> dict[str, object]:
    """Return what is on record of things, without what is about the recording itself."""
    kinds = (tables.BaseModel, tables.Adapter, tables.AdapterTag, tables.AdapterFinding, tables.CurvePoint, tables.BaseName,
             tables.BaseRevision, tables.TrainingRun, tables.Dataset, tables.Fused, tables.Manifest, tables.ManifestFile)  # fmt: skip
    with registry.workspace.database.read() as session:
        found: dict[str, object] = {
            kind.__tablename__: sorted(
                sorted((key, repr(value)) for key, value in values_of(row).items())
                for row in session.scalars(select(kind))
            )
            for kind in kinds
        }
        found["blobs"] = sorted(
            (row.digest, row.size, row.state) for row in session.scalars(select(tables.Blob))
        )
        events = session.scalars(
            select(tables.Event).where(tables.Event.action.like("%.received")).order_by(tables.Event.seq)
        )
        found["log"] = [(event.action, event.subject, event.detail) for event in events]
    return found


def files_of(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "store" / "blobs").rglob("*") if path.is_file()}


def test_a_push_leaves_what_a_push_to_a_database_does(
    stocked: Registry, served: Served, tmp_path: Path
) -> None:
    done = stocked.exchange.push("course_rec", served.url)
    straight = stocked.exchange.push("course_rec", tmp_path / "straight")
    assert [(item.kind, item.state, item.bytes) for item in done.items_] == [
        (item.kind, item.state, item.bytes) for item in straight.items_
    ]
    with Registry.open(tmp_path / "straight") as there:
        assert contents(served.registry) == contents(there)
    assert files_of(served.home) == files_of(tmp_path / "straight")
    assert done.to.to_dict() == {
        "registry": served.registry.workspace.identity,
        "place": served.url,
        "store": served.url,
    }
    assert served.registry.upkeep.audit().ok
    assert {entry.actor for entry in served.registry.upkeep.log(reference="course_rec@2")} == {"ci"}


def test_a_second_time_nothing_is_sent(stocked: Registry, served: Served) -> None:
    stocked.exchange.push("course_rec", served.url)
    before = contents(served.registry), len(served.registry.upkeep.log())
    again = stocked.exchange.push("course_rec", served.url)
    assert (again.bytes, again.moved) == (0, [])
    assert (contents(served.registry), len(served.registry.upkeep.log())) == before


def test_a_pull_leaves_what_a_pull_from_a_database_does(
    stocked: Registry, served: Served, tmp_path: Path
) -> None:
    stocked.exchange.push("course_rec", served.url)
    with Registry.open(tmp_path / "over") as over, Registry.open(tmp_path / "straight") as straight:
        told = over.exchange.pull("course_rec", served.url, dry_run=True)
        assert not (tmp_path / "over").exists()
        done = over.exchange.pull("course_rec", served.url)
        other = straight.exchange.pull("course_rec", served.home)
        assert contents(over) == contents(straight)
        assert over.upkeep.audit().ok
        assert (told.bytes, done.bytes) == (other.bytes, other.bytes)
        assert over.exchange.pull("course_rec", served.url).moved == []
    assert files_of(tmp_path / "over") == files_of(tmp_path / "straight")
