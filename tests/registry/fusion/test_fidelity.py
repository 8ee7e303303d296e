"""Fidelity on record: by artifact and by adapter, and the picture of it in a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.errors import (
    AlreadyExistsError,
    BadInputError,
    MissingExtraError,
    UnknownReferenceError,
)
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.errors import MissingFileError


def test_by_key_and_by_digest(stocked: Registry) -> None:
    made = stocked.fused.fuse("course_rec@1")
    by_key = stocked.fused.fidelity(made["key"][:12])
    assert by_key == stocked.fused.fidelity(made["digest"][:12])
    assert by_key["key"] == made["key"]
    assert {module["module"]: module for module in by_key["fidelity"]["modules"]} == {
        module["module"]: module for module in made["fidelity"]["modules"]
    }
    for figure in ("verdict", "retained", "cosine", "relative_error"):
        assert by_key["fidelity"][figure] == made["fidelity"][figure]
    assert by_key["plot"] is None


def test_an_adapter_stands_for_the_newest_made_of_it(stocked: Registry) -> None:
    stocked.fused.fuse("course_rec@1")
    stocked.fused.fuse("course_rec@2")
    assert stocked.fused.fidelity("course_rec@1")["scale"] is None
    stocked.fused.fuse("course_rec@1", FuseRequest(scale=3.0))
    assert stocked.fused.fidelity("course_rec@1")["scale"] == 3.0


def test_what_it_was_only_added_to_is_not_its_own(stocked: Registry) -> None:
    stocked.fused.fuse("course_rec@1", FuseRequest(extras=(("course_rec@2", 0.5),)))
    with pytest.raises(UnknownReferenceError):
        stocked.fused.fidelity("course_rec@2")
    found = stocked.fused.fidelity("course_rec@1")
    assert found["with"] == [{"adapter": "course_rec_v2_20260201", "weight": 0.5}]


def test_an_adapter_that_was_never_fused_says_what_to_do(stocked: Registry) -> None:
    with pytest.raises(UnknownReferenceError) as caught:
        stocked.fused.fidelity("course_rec@1")
    assert caught.value.exit_code == 2
    for command in ("fusery fuse course_rec_v1_20260115", "fusery fidelity course_rec_v1_20260115 --formats"):
        assert command in str(caught.value.hint)


def test_the_same_bytes_under_another_task_keep_the_name_that_was_asked_for(
    stocked: Registry, tmp_path: Path
) -> None:
    stocked.adapters.register(tmp_path / "first", base="tiny", task="other")
    stocked.fused.fuse("course_rec@1")
    assert stocked.fused.fidelity("other@1")["adapter"] == stocked.adapters.show("other@1")["name"]


def test_a_base_has_no_fidelity(stocked: Registry) -> None:
    with pytest.raises(BadInputError) as caught:
        stocked.fused.fidelity("tiny")
    assert caught.value.hint == "fusery list --base tiny"


def test_modules_come_in_the_order_of_the_layers(registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "deep", layers=12, hidden=64, intermediate=64)
    registry.bases.add(base, name="deep")
    adapter = tiny_models.make_adapter(tmp_path / "a", base, num_layers=12, keys=["self_attn.q_proj"])
    registry.adapters.register(adapter, base="deep", task="one")
    registry.fused.fuse("one@1")
    names = [module["module"] for module in registry.fused.fidelity("one@1")["fidelity"]["modules"]]
    assert names == [f"model.layers.{layer}.self_attn.q_proj" for layer in range(12)]


@pytest.mark.parametrize("name", ["fidelity.png", "fidelity.SVG"])
def test_a_picture_is_written_and_the_same_again_is_left(
    stocked: Registry, tmp_path: Path, name: str
) -> None:
    stocked.fused.fuse("course_rec@1")
    place = tmp_path / name
    assert stocked.fused.fidelity("course_rec@1", plot=place)["plot"] == str(place)
    first, before = place.read_bytes(), place.stat()
    assert first.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert stat.S_IMODE(before.st_mode) & stat.S_IRUSR
    stocked.fused.fidelity("course_rec@1", plot=place)
    assert (place.stat().st_ino, place.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {name}


def test_another_file_is_replaced_with_force_only(stocked: Registry, tmp_path: Path) -> None:
    stocked.fused.fuse("course_rec@1")
    place = tmp_path / "fidelity.svg"
    place.write_text("precious")
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.fused.fidelity("course_rec@1", plot=place)
    assert "--force" in str(caught.value.hint)
    assert place.read_text() == "precious"
    stocked.fused.fidelity("course_rec@1", plot=place, force=True)
    assert place.read_text(encoding="utf-8").startswith("<?xml")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"fidelity.svg"}


@pytest.mark.parametrize("name", ["fidelity", "fidelity.pdf", "fidelity.png.exe", ".png"])
def test_other_kinds_of_picture_are_refused_before_anything_is_read(registry: Registry, name: str) -> None:
    with pytest.raises(BadInputError, match=r"called \.png or \.svg"):
        registry.fused.fidelity("nothing@1", plot=name)


def test_places_that_cannot_be_written(stocked: Registry, tmp_path: Path) -> None:
    stocked.fused.fuse("course_rec@1")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(AlreadyExistsError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "folder.png", force=True)
    with pytest.raises(MissingFileError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "absent" / "a.png")


def test_a_link_at_the_place_is_not_written_through(stocked: Registry, tmp_path: Path) -> None:
    stocked.fused.fuse("course_rec@1")
    target = tmp_path / "target"
    target.write_text("precious")
    os.symlink(target, tmp_path / "a.png")
    with pytest.raises(AlreadyExistsError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "a.png")
    stocked.fused.fidelity("course_rec@1", plot=tmp_path / "a.png", force=True)
    assert target.read_text() == "precious"


def test_a_picture_needs_its_extra_and_the_numbers_do_not(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "resvg_py", None)
    stocked.fused.fuse("course_rec@1")
    assert stocked.fused.fidelity("course_rec@1")["fidelity"]["modules"]
    with pytest.raises(MissingExtraError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    assert stocked.fused.fidelity("course_rec@1", plot=tmp_path / "a.svg")["plot"]
