"""Fidelity on record: by artifact and by adapter, and the picture of it in a file."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import AlreadyExistsError, BadInputError, MissingExtraError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.errors import MissingFileError


def test_by_key_digest_and_adapter(stocked: Registry) -> None:
    with pytest.raises(UnknownReferenceError) as caught:
        stocked.fused.fidelity("course_rec@1")
    assert caught.value.exit_code == 2
    for command in (
        "fusery fuse course_rec_v1_20260115",
        "fusery show course_rec_v1_20260115 --fidelity --formats",
    ):
        assert command in str(caught.value.hint)
    with pytest.raises(BadInputError) as refused:
        stocked.fused.fidelity("tiny")
    assert refused.value.hint == "fusery list --base tiny"
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
    # An adapter stands for the newest made of it, and what it was only added to is not its own.
    stocked.fused.fuse("course_rec@1", FuseRequest(extras=(("course_rec@2", 0.5),)))
    with pytest.raises(UnknownReferenceError):
        stocked.fused.fidelity("course_rec@2")
    found = stocked.fused.fidelity("course_rec@1")
    assert found["scale"] is None
    assert found["with"] == [{"adapter": "course_rec_v2_20260201", "weight": 0.5}]
    stocked.fused.fuse("course_rec@1", FuseRequest(scale=3.0))
    assert stocked.fused.fidelity("course_rec@1")["scale"] == 3.0


def test_name_that_was_asked_for_is_kept(stocked: Registry, tmp_path: Path) -> None:
    stocked.adapters.register(tmp_path / "first", base="tiny", task="other")
    stocked.fused.fuse("course_rec@1")
    assert stocked.fused.fidelity("other@1")["adapter"] == stocked.adapters.show("other@1")["name"]


def test_a_picture_is_written_and_gives_way_by_force_only(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fidelity", "fidelity.pdf", "fidelity.png.exe", ".png"):
        with pytest.raises(BadInputError):  # before anything is read
            stocked.fused.fidelity("nothing@1", plot=name)
    stocked.fused.fuse("course_rec@1")
    with pytest.raises(MissingFileError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "absent" / "a.png")
    for name, magic in (("fidelity.png", b"\x89PNG"), ("fidelity.SVG", b"<?xml")):
        place, target = tmp_path / name, tmp_path / "target"
        assert stocked.fused.fidelity("course_rec@1", plot=place)["plot"] == str(place)
        before = place.stat()
        assert place.read_bytes().startswith(magic)
        assert stat.S_IMODE(before.st_mode) & stat.S_IRUSR
        stocked.fused.fidelity("course_rec@1", plot=place)
        assert (place.stat().st_ino, place.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        target.write_text("precious")
        place.unlink()
        place.symlink_to(target)  # it is not written through
        with pytest.raises(AlreadyExistsError) as caught:
            stocked.fused.fidelity("course_rec@1", plot=place)
        assert "--force" in str(caught.value.hint)
        stocked.fused.fidelity("course_rec@1", plot=place, force=True)
        assert place.read_bytes().startswith(magic) and target.read_text() == "precious"
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(AlreadyExistsError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "folder.png", force=True)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"fidelity.png", "fidelity.SVG", "target"}
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingExtraError):
        stocked.fused.fidelity("course_rec@1", plot=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    assert stocked.fused.fidelity("course_rec@1", plot=tmp_path / "a.svg")["plot"], "only png needs its extra"
