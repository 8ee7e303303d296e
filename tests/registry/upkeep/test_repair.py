"""Repair: what is damaged is put aside, what has a copy or a recipe is put back, the rest is named with who needs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from kept_registries import KeptStates
from sqlalchemy import update

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.upkeep.report import Report
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import MissingFileError

# What depends on PostgreSQL itself is tested in `registry/database`.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Flip = Callable[[Path], None]
KEEP = FuseRequest(precision="keep", accept_loss=True)


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    """One folder for all tests, emptied for each: where bundles lie is on record."""
    return kept.empty_place()


@pytest.fixture
def shipped(kept: KeptStates, database_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Registry]:
    """A registry with a base, two adapters, a fused model and a bundle, made once on each database."""

    def ship(registry: Registry) -> None:
        registry.bases.add(tiny_base, name="tiny")
        for version, (name, date) in enumerate((("first", "20260115"), ("second", "20260201")), 1):
            folder = tiny_models.make_adapter(tmp_path / name, tiny_base, seed=version)
            registry.adapters.register(folder, base="tiny", task="course_rec", date=date)
        registry.bundles.materialize("course_rec@2", tmp_path / "out", request=KEEP)
        registry.aliases.set("prod", "course_rec@2")

    with kept.opened("shipped", database_url, ship) as (registry, _):
        yield registry


def digest_of(registry: Registry, reference: str, name: str) -> Digest:
    files = (
        registry.bases.show(reference)["files"]
        if reference == "tiny"
        else registry.adapters.show(reference)["files"]
    )
    return Digest(next(file["sha256"] for file in files if file["path"] == name))


def path_of(registry: Registry, reference: str, name: str) -> Path:
    path = registry.workspace.store.local_path(digest_of(registry, reference, name))
    assert path is not None
    return path


def actions(registry: Registry, action: str) -> list[dict[str, Any]]:
    with registry.workspace.database.read() as session:
        return [json.loads(event.detail) for event in events.history(session, action=action)]


def codes(report: Report) -> list[str]:
    return [problem.code for problem in report.problems]


@on_sqlite
class TestDependants:
    def test_an_adapter_with_all_that_was_made_from_it(
        self, shipped: Registry, flip: Flip, tmp_path: Path
    ) -> None:
        flip(path_of(shipped, "course_rec@2", "adapters.safetensors"))
        [problem] = shipped.upkeep.audit().problems
        assert problem.code == "blob_corrupt"
        assert set(problem.dependants) == {
            "adapter course_rec_v2_20260201",
            "fused course_rec_v2_20260201 (keep)",
            f"bundle model {tmp_path / 'out'}",
            "alias course_rec#prod",
        }

    def test_a_base_with_every_adapter_on_it(self, shipped: Registry) -> None:
        path_of(shipped, "tiny", "model.safetensors").unlink()
        [problem] = shipped.upkeep.audit().problems
        assert {"base tiny", "adapter course_rec_v1_20260115", "adapter course_rec_v2_20260201"} <= set(
            problem.dependants
        )
        assert "alias course_rec#prod" in problem.dependants
        assert problem.to_dict()["digest"] == digest_of(shipped, "tiny", "model.safetensors")


@on_sqlite
class TestBlobs:
    @pytest.mark.parametrize("gone", [False, True])
    def test_from_a_fused_model_or_a_bundle_on_this_machine(
        self, shipped: Registry, flip: Flip, gone: bool
    ) -> None:
        path = path_of(shipped, "tiny", "tokenizer.json")
        good = path.read_bytes()
        if gone:
            path.unlink()
        else:
            flip(path)
        assert codes(shipped.upkeep.audit()) == ["blob_missing" if gone else "blob_corrupt"]
        assert actions(shipped, "blob.repaired") == []
        report = shipped.upkeep.audit(repair=True)
        assert report.ok
        [repair] = report.repaired
        assert path.read_bytes() == good
        assert (repair.quarantined is None) is gone
        assert report.quarantined == ([] if gone else [repair.quarantined])
        [detail] = actions(shipped, "blob.repaired")
        assert detail["moved_to"] == repair.quarantined
        assert detail["source"] == repair.source
        assert shipped.upkeep.audit().ok

    def test_from_a_folder_of_the_user_s(
        self, shipped: Registry, flip: Flip, tmp_path: Path, tiny_base: Path
    ) -> None:
        flip(path_of(shipped, "course_rec@1", "adapters.safetensors"))
        flip(path_of(shipped, "tiny", "model.safetensors"))
        report = shipped.upkeep.audit(repair=True, copies=(tmp_path / "first", tiny_base))
        assert report.ok
        assert {repair.source for repair in report.repaired} == {
            str(tmp_path / "first" / "adapters.safetensors"),
            str(tiny_base / "model.safetensors"),
        }
        assert shipped.upkeep.audit().ok
        shipped.fused.fuse("course_rec@1", KEEP)

    def test_from_another_generation(self, shipped: Registry) -> None:
        path = path_of(shipped, "course_rec@1", "adapters.safetensors")
        store, digest = shipped.workspace.store, digest_bytes(path.read_bytes())
        store.put_bytes(path.read_bytes(), generation=3)
        path.unlink()
        report = shipped.upkeep.audit(repair=True)
        assert report.ok
        assert report.repaired[0].source == "generation 3 in the store"
        with shipped.workspace.database.read() as session:
            assert session.get_one(tables.BlobRow, digest).generation == 3
        assert shipped.upkeep.audit().ok

    def test_without_a_copy_it_is_put_aside_and_named(
        self, shipped: Registry, flip: Flip, tmp_path: Path
    ) -> None:
        path = path_of(shipped, "course_rec@1", "adapters.safetensors")
        flip(path)
        damaged = path.read_bytes()
        report = shipped.upkeep.audit(repair=True)
        [problem] = report.problems
        assert problem.dependants == ("adapter course_rec_v1_20260115",)
        [name] = report.quarantined
        assert (shipped.workspace.settings.home / "store" / name).read_bytes() == damaged
        assert [detail["moved_to"] for detail in actions(shipped, "blob.quarantined")] == [name]
        flip(tmp_path / "first" / "adapters.safetensors")  # a file of the same size is no copy
        assert codes(shipped.upkeep.audit(repair=True, copies=(tmp_path / "first",))) == ["blob_missing"]
        with pytest.raises(MissingFileError):
            shipped.upkeep.audit(repair=True, copies=("nowhere",))
        assert shipped.upkeep.gc(grace=0).quarantined == 1

    @pytest.mark.parametrize("state", ["pending", "absent", "deleting"])
    def test_a_row_that_says_otherwise_is_put_right(
        self, shipped: Registry, state: str, tmp_path: Path
    ) -> None:
        digest = digest_of(shipped, "course_rec@1", "adapters.safetensors")
        with shipped.workspace.database.write() as session:
            session.execute(
                update(tables.BlobRow)
                .where(tables.BlobRow.digest == digest)
                .values(state=state, tomb_expires=1.0)
            )
        assert codes(shipped.upkeep.audit()) == ["blob_not_ready"]
        assert shipped.upkeep.audit(repair=True, copies=(tmp_path / "first",)).ok
        with shipped.workspace.database.read() as session:
            row = session.get_one(tables.BlobRow, digest)
            assert (row.state, row.generation) == ("ready", int(state == "deleting"))
        assert shipped.upkeep.audit().ok
        shipped.upkeep.gc(grace=0)
        assert shipped.upkeep.audit().ok


@on_sqlite
class TestFused:
    def test_it_is_made_again_by_its_recipe(self, shipped: Registry, flip: Flip) -> None:
        made = shipped.fused.fuse("course_rec@2", KEEP)
        good = (made.path / "model.safetensors").read_bytes()
        flip(made.path / "model.safetensors")
        flip(made.path / "config.json")
        report = shipped.upkeep.audit(repair=True)
        assert report.ok
        assert [repair.source for repair in report.repaired] == ["its recipe", "its recipe"]
        assert (made.path / "model.safetensors").read_bytes() == good
        assert len(actions(shipped, "fused.repaired")) == 1
        assert shipped.upkeep.audit().ok

    def test_what_is_published_is_made_again_where_the_cache_has_it_no_more(
        self, shipped: Registry, flip: Flip
    ) -> None:
        made = shipped.fused.fuse("course_rec@1", KEEP, publish="full")
        [entry] = [file for file in made["files"] if file["path"] == "model.safetensors"]
        path = shipped.workspace.store.local_path(Digest(entry["sha256"]))
        assert path is not None
        good = path.read_bytes()
        shipped.workspace.cache.remove(made["key"])
        flip(path)
        report = shipped.upkeep.audit(repair=True)
        assert report.ok
        assert [repair.source for repair in report.repaired] == [f"the recipe of {made['key'][:12]}"]
        assert path.read_bytes() == good
        assert shipped.upkeep.audit().ok

    def test_what_cannot_be_made_again_is_moved_away_and_named(
        self, shipped: Registry, flip: Flip, tiny_base: Path
    ) -> None:
        path = shipped.fused.fuse("course_rec@2", KEEP).path
        flip(path / "model.safetensors")
        flip(path_of(shipped, "tiny", "model.safetensors"))
        report = shipped.upkeep.audit(repair=True)
        assert sorted(codes(report)) == ["blob_corrupt", "cache_changed"]
        assert all("alias course_rec#prod" in problem.dependants for problem in report.problems)
        assert not path.exists()
        shipped.bases.add(tiny_base, name="tiny")  # which puts it back
        assert shipped.upkeep.audit().ok
        # Where both have a source, the base is repaired first.
        flip(shipped.fused.fuse("course_rec@2", KEEP).path / "model.safetensors")
        flip(path_of(shipped, "tiny", "model.safetensors"))
        assert shipped.upkeep.audit(repair=True, copies=(tiny_base,)).ok

    def test_a_bundle_of_the_user_s_is_not_touched(self, shipped: Registry, tmp_path: Path) -> None:
        (tmp_path / "out" / "config.json").chmod(0o644)
        (tmp_path / "out" / "config.json").write_text("{}")
        report = shipped.upkeep.audit(repair=True)
        assert codes(report) == ["bundle_changed"]
        assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_wrong_blob_size_is_found_and_repaired(shipped: Registry) -> None:
    digest = digest_of(shipped, "course_rec@1", "adapters.safetensors")
    path = path_of(shipped, "course_rec@1", "adapters.safetensors")
    size = path.stat().st_size
    with shipped.workspace.database.write() as session:
        session.execute(update(tables.BlobRow).where(tables.BlobRow.digest == digest).values(size=size - 3))
    for report in (shipped.upkeep.audit(), shipped.upkeep.audit(), shipped.upkeep.audit(("course_rec@1",))):
        assert codes(report) == ["blob_size_differs"]
        [problem] = report.problems
        assert problem.digest == digest
        assert "adapter course_rec_v1_20260115" in problem.dependants
    report = shipped.upkeep.audit(repair=True)
    assert [one.code for one in report.repaired] == ["blob_size_differs"]
    assert report.repaired[0].quarantined is None
    assert shipped.upkeep.audit().ok
    [detail] = actions(shipped, "blob.repaired")
    assert detail["size"] == size
    with shipped.workspace.database.read() as session:
        assert session.get_one(tables.BlobRow, digest).size == size
    assert path.stat().st_size == size
