"""Between two registries: what is copied, what is kept as it is, what is refused, and that it ends whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from sqlalchemy import func, select

from fusery.registry import Registry, tables
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from fusery.registry.exchange import recording
from fusery.registry.exchange.filling import needed_blobs
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.errors import MissingFileError
from fusery.storage.progress import Reporter

FACTS = (
    "name", "task", "version", "date", "base", "digest", "method", "rank", "alpha", "scale", "layers", "target_modules",
    "trainable_parameters", "val_loss", "iterations", "dataset", "examples", "parent", "tags", "note", "created_at",
    "created_by", "findings",
)  # fmt: skip


def facts(registry: Registry, name: str) -> dict[str, Any]:
    shown = registry.adapters.show(name)
    return {key: shown[key] for key in FACTS}


def states(done: Any) -> list[tuple[str, str]]:
    return [(item.kind, item.state) for item in done.items_]


def files_of(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "blobs").rglob("*") if path.is_file()}


def rows(registry: Registry) -> dict[str, int]:
    with registry.workspace.database.read() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in tables.metadata.sorted_tables
        }


def test_an_adapter_brings_what_it_needs_and_only_what_is_missing(
    stocked: Registry, other: Registry, other_home: Path
) -> None:
    done = stocked.exchange.push("course_rec@1", other_home)
    assert states(done) == [("base", "copied"), ("adapter", "copied")]
    assert other.bases.show("tiny")["files"] == stocked.bases.show("tiny")["files"]
    [received], [registered] = (
        registry.upkeep.log(reference="course_rec@1") for registry in (other, stocked)
    )
    origin = received["detail"]["origin"]
    assert received["action"] == "adapter.received"
    assert origin["registry"] == stocked.workspace.identity != other.workspace.identity
    assert (origin["event"], origin["events"]) == (registered["hash"], [registered["hash"]])
    done = stocked.exchange.push("course_rec@2", other_home)
    assert states(done) == [("base", "present"), ("adapter", "present"), ("adapter", "copied")]
    assert done.bytes < 200_000
    for name in ("course_rec_v1_20260115", "course_rec_v2_20260201"):
        assert facts(other, name) == facts(stocked, name)
    ids = [
        {node["id"] for node in registry.provenance.lineage("course_rec@2").to_dict()["nodes"]}
        for registry in (stocked, other)
    ]
    assert ids[0] == ids[1]
    before, files = rows(other), files_of(other_home / "store")
    again = stocked.exchange.push("course_rec", other_home)
    assert (again.bytes, again.moved) == (0, [])
    assert (rows(other), files_of(other_home / "store")) == (before, files)
    assert other.upkeep.audit().ok


def test_what_cannot_be_pushed_leaves_no_registry_and_neither_does_a_dry_run(
    stocked: Registry, other_home: Path
) -> None:
    for home in ("s3://bucket/x", stocked.workspace.settings.home):  # the latter is this registry itself
        with pytest.raises(BadInputError) as caught:
            stocked.exchange.push("course_rec", home)
        assert caught.value.hint
    with pytest.raises(UnknownReferenceError):
        stocked.exchange.push("nothing_of_it", other_home)
    planned = stocked.exchange.push("course_rec", other_home, dry_run=True)
    assert not other_home.exists()
    assert planned.to_dict()["to"]["registry"] is None
    done = stocked.exchange.push("course_rec", other_home)
    assert [item.name for item in planned.moved] == [item.name for item in done.moved]
    stored = sum(len(data) for data in files_of(other_home / "store").values())
    assert planned.bytes == done.bytes == stored


def test_a_name_that_is_taken_by_other_bytes_is_refused_before_anything_is_copied(
    stocked: Registry, other: Registry, other_home: Path, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    other.bases.add(tiny_base, name="tiny")
    other.adapters.register(make_adapter("theirs", seed=77), base="tiny", task="course_rec", date="20260110")
    before = rows(other)
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.exchange.push("course_rec@2", other_home)
    assert caught.value.hint
    assert rows(other) == before
    another = tiny_models.make_base(other_home.parent / "another", layers=2, seed=5)
    with Registry.open(other_home.parent / "third") as third:
        third.init()
        third.bases.add(another, name="tiny")  # so is the name of another base
        with pytest.raises(AlreadyExistsError):
            stocked.exchange.push("course_rec@1", other_home.parent / "third")


def test_bases_and_adapters_under_other_names_are_found_by_what_they_hold(
    stocked: Registry, other: Registry, other_home: Path, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    other.bases.add(tiny_base, name="theirs")
    done = stocked.exchange.push("course_rec@1", other_home)
    assert states(done) == [("base", "present"), ("adapter", "copied")]
    assert (done.items_[0].name, done.items_[0].new_name) == ("tiny", "theirs")
    assert other.adapters.show("course_rec@1")["base"] == "theirs"
    other.adapters.register(
        make_adapter("second", seed=2, rank=4), base="theirs", task="course_rec", date="20250101", version=4
    )
    done = stocked.exchange.push("course_rec@2", other_home)
    assert states(done) == [("base", "present"), ("adapter", "present"), ("adapter", "present")]
    assert done.items_[2].new_name == "course_rec_v4_20250101"


def test_a_base_kept_by_reference_goes_as_files(
    registry: Registry, other: Registry, other_home: Path, tiny_base: Path, make_adapter: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = shutil.copytree(tiny_base, tmp_path / "referenced")
    registry.bases.add(folder, name="tiny", reference=True)
    registry.adapters.register(make_adapter(), base="tiny", task="t")
    registry.exchange.push("t", other_home)
    assert other.bases.show("tiny")["reference"] is None
    assert other.upkeep.audit().ok
    shutil.rmtree(folder)
    with pytest.raises(MissingFileError):
        registry.exchange.push("t", tmp_path / "third")


def test_withdrawn_is_withdrawn_there_too_even_later(
    stocked: Registry, other: Registry, other_home: Path
) -> None:
    stocked.exchange.push("course_rec@1", other_home)
    assert not other.adapters.show("course_rec@1")["yanked"]
    stocked.adapters.yank("course_rec@1", reason="leaks")
    done = stocked.exchange.push("course_rec@1", other_home)
    assert states(done) == [("base", "present"), ("adapter", "completed")]
    assert other.adapters.show("course_rec@1")["yanked"]
    assert stocked.exchange.push("course_rec@1", other_home).moved == []
    other.adapters.unyank("course_rec@1", reason="ours is fine")
    assert stocked.exchange.push("course_rec@1", other_home).moved == []
    assert not other.adapters.show("course_rec@1")["yanked"]


def test_fused_artifacts_go_with_their_files_if_they_are_published(
    stocked: Registry, other: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stocked.fused.fuse("course_rec@1")
    assert states(stocked.exchange.push("course_rec@1", other_home, fused=True))[-1] == ("fused", "copied")
    again = other.fused.fuse("course_rec@1")
    assert (again.source, again["digest"]) == ("computed", made["digest"])
    stocked.fused.fuse("course_rec@1", publish="full")
    done = stocked.exchange.push(made["key"], other_home)
    assert states(done)[-1] == ("fused", "completed")
    shutil.rmtree(other_home / "cache" / "fused")
    assert other.fused.fuse("course_rec@1").source == "store"
    assert other.upkeep.audit().ok
    monkeypatch.setattr(recording, "CLAIMS", 2)
    for scale, refused in ((0.5, nullcontext()), (0.25, pytest.raises(BadInputError))):
        stocked.fused.fuse("course_rec@1", FuseRequest(scale=scale, accept_loss=True))
        with refused:
            stocked.exchange.push("course_rec@1", other_home, fused=True)


def test_copying_says_what_it_copies(stocked: Registry, other_home: Path) -> None:
    said = list[str]()
    reporter = Reporter(said.append)
    stocked.exchange.push("course_rec@1", other_home, reporter=reporter)
    assert said == ["copying base tiny", "copying adapter course_rec_v1_20260115"]
    stocked.adapters.amend("course_rec@1", note="new")
    stocked.exchange.push("course_rec@1", other_home, reporter=reporter)
    assert said[2:] == ["copying adapter course_rec_v1_20260115"]


def test_blobs_that_no_file_has_are_not_in_a_backup(stocked: Registry) -> None:
    with stocked.workspace.database.write() as session:
        session.add(
            tables.BlobRow(digest="0" * 64, size=6, generation=0, state="ready", created_at=datetime.now(UTC))
        )
    with stocked.workspace.database.read() as session:
        files = set(session.scalars(select(tables.ManifestFileRow.blob)))
        assert [blob.digest for blob in needed_blobs(session)] == sorted(files)


def test_settings_of_the_other_home_count_and_stay_inside(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_STORE_URL", str(tmp_path / "of-this-registry"))
    there = other_home / "there"
    there.mkdir()
    (there / "config.toml").write_text('store_url = "bytes"\n', encoding="utf-8")
    assert stocked.exchange.push("course_rec@1", there).copied == 2
    assert files_of(there / "bytes")
    (there / "config.toml").write_text(f'store_url = "{tmp_path}/away"\n', encoding="utf-8")
    with pytest.raises(BadInputError, match="leads out of its folder"):
        stocked.exchange.pull("course_rec@1", there)
