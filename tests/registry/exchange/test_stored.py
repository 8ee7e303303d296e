"""Pulling single records from a package in a folder or store, such as a backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from package_files import change_lines
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.exchange import stored
from fusery.registry.exchange.stored import open_package
from fusery.registry.remote import container
from fusery.registry.remote.container import BackupError
from fusery.registry.wire import encode
from fusery.storage.jsonfile import count_values

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260220"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    with Registry(open_workspace(tmp_path / "other")) as opened:
        opened.init()
        yield opened


@pytest.mark.parametrize("in_store", [False, True])
def test_records_are_pulled_with_all_that_they_need(
    stocked: Registry, other: Registry, tmp_path: Path, in_store: bool
) -> None:
    place = f"memory://{tmp_path.name}" if in_store else str(tmp_path / "saved")
    stocked.fused.fuse(ONE)
    stocked.upkeep.backup(place)
    done = other.exchange.pull("course_rec@1", place)
    assert [(each.kind, each.state) for each in done.items_] == [("base", "copied"), ("adapter", "copied")]
    assert done.from_.registry == stocked.workspace.identity
    assert [row.name for row in other.adapters.list()] == [ONE]
    assert [each.kind for each in other.exchange.pull(ONE, place, fused=True, dry_run=True).moved] == [
        "fused"
    ]
    assert other.exchange.pull("course_rec", place).copied == 1  # version 2
    assert other.exchange.pull("tiny", place).copied == 0
    assert other.adapters.list() == stocked.adapters.list()
    assert other.upkeep.audit().ok
    with pytest.raises(UnknownReferenceError):
        other.exchange.pull("course_rec@9", place)
    with pytest.raises(BadInputError, match="cannot push"):
        other.exchange.push("course_rec@1", place)


def test_invalid_packages_are_refused(stocked: Registry, other: Registry, tmp_path: Path) -> None:
    stocked.upkeep.backup(tmp_path / "saved")
    with pytest.raises(BadInputError, match="same id as this one"):
        stocked.exchange.pull("course_rec@1", tmp_path / "saved")
    change_lines(tmp_path / "saved", "documents/adapter.ndjson", lambda each: each[0].update(rank="x"))
    with pytest.raises(BackupError, match="documents/adapter.ndjson"):
        other.exchange.pull("course_rec@1", tmp_path / "saved")
    assert other.adapters.list() == []


def test_documents_of_another_party_have_total_limits(
    stocked: Registry, other: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "saved")
    stocked.upkeep.backup(place)
    with open_package(place, other.workspace) as package:
        values = sum(count_values(encode(each)) for each in package.documents)
    for limit, ends in (
        (2 * values, nullcontext()),
        (values - 50, pytest.raises(BackupError, match="adapter.nd")),
    ):
        monkeypatch.setattr(container, "MOST_VALUES", limit)
        with ends:
            other.exchange.pull("course_rec@1", place, dry_run=True)
    stocked.upkeep.backup(place, verify=True)  # the limit is not for one's own
    monkeypatch.setattr(stored, "_MOST_BYTES", 100)
    with pytest.raises(BackupError, match=r"package\.json"):
        other.exchange.pull("course_rec@1", place)
