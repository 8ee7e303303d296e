from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.storage.digest import digest_file


@pytest.mark.parametrize("target", ["model", "docker"])
def test_a_bundle_is_whole_and_traced_back(target: str, stocked: Registry, tmp_path: Path) -> None:
    bundle = stocked.materialize("course_rec@1", tmp_path / "out", target=target)
    assert {entry.path for entry in bundle.manifest} >= {"fusery.json", "README.md"}
    for entry in bundle.manifest:
        assert digest_file(bundle.path / entry.path) == (entry.sha256, entry.size)
    text = (bundle.path / "fusery.json").read_text(encoding="utf-8")
    for fact in (
        "course_rec_v1_20260115",
        "tiny",
        "courses",
        bundle.fused.view["key"],
        bundle.fused.view["digest"],
    ):
        assert fact in text
    assert stocked.audit().ok
    document = bundle.to_dict()
    assert document.keys() >= {"target", "path", "digest", "adapters", "files"}
    assert document["adapters"] == ["course_rec_v1_20260115"]


def test_a_bundle_names_nothing_of_the_machine(stocked: Registry, tmp_path: Path) -> None:
    bundle = stocked.materialize("course_rec@1", tmp_path / "out", target="docker")
    for path in bundle.path.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content, path
            assert b"/root/" not in content, path


def test_the_same_again_is_left_as_it_is(stocked: Registry, tmp_path: Path) -> None:
    first = stocked.materialize("course_rec@1", tmp_path / "out")
    second = stocked.materialize("course_rec@1", tmp_path / "out")
    assert (first.existed, second.existed) == (False, True)
    assert first.manifest == second.manifest
    assert len(stocked.show("course_rec@1")["bundles"]) == 1


def test_something_else_is_not_replaced_without_force(stocked: Registry, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "precious.txt").write_text("mine")
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.materialize("course_rec@1", place)
    assert "--force" in str(caught.value.hint)
    assert (place / "precious.txt").read_text() == "mine"
    stocked.materialize("course_rec@1", place, force=True)
    assert not (place / "precious.txt").exists()


def test_another_adapter_s_bundle_is_not_replaced_without_force(stocked: Registry, tmp_path: Path) -> None:
    stocked.materialize("course_rec@1", tmp_path / "out")
    with pytest.raises(AlreadyExistsError):
        stocked.materialize("course_rec@2", tmp_path / "out")
    stocked.materialize("course_rec@2", tmp_path / "out", force=True)
    assert "course_rec_v2" in (tmp_path / "out" / "fusery.json").read_text(encoding="utf-8")
    assert stocked.audit().ok


def test_an_edited_bundle_is_found_by_the_audit(stocked: Registry, tmp_path: Path) -> None:
    stocked.materialize("course_rec@1", tmp_path / "out")
    card = tmp_path / "out" / "README.md"
    card.chmod(0o644)
    card.write_text("edited")
    assert [problem.code for problem in stocked.audit().problems] == ["bundle_changed"]


def test_a_bundle_that_was_moved_is_no_problem(stocked: Registry, tmp_path: Path) -> None:
    stocked.materialize("course_rec@1", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert stocked.audit().ok


def test_a_file_at_the_destination(stocked: Registry, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(AlreadyExistsError):
        stocked.materialize("course_rec@1", tmp_path / "out", force=True)


def test_an_unknown_target(stocked: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        stocked.materialize("course_rec@1", tmp_path / "out", target="floppy")


def test_an_empty_folder_is_filled(stocked: Registry, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    stocked.materialize("course_rec@1", tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_hard_links_on_request_only(stocked: Registry, tmp_path: Path) -> None:
    copied = stocked.materialize("course_rec@1", tmp_path / "copied")
    linked = stocked.materialize("course_rec@1", tmp_path / "linked", link=True)
    weights = copied.fused.path / "model.safetensors"
    assert not os.path.samefile(weights, copied.path / "model.safetensors")
    assert os.path.samefile(weights, linked.path / "model.safetensors")


def test_what_a_killed_command_left_is_swept(stocked: Registry, tmp_path: Path) -> None:
    stale = tmp_path / ".out.fusery-999999999-abc"
    (stale / "out").mkdir(parents=True)
    stocked.materialize("course_rec@1", tmp_path / "out")
    assert not stale.exists()


def test_the_plain_folder_loads_in_mlx_lm(stocked: Registry, tmp_path: Path) -> None:
    import mlx_lm

    path = stocked.materialize("course_rec@1", tmp_path / "out").path
    assert mlx_lm.load(str(path))[0] is not None
    assert json.loads((path / "fusery.json").read_text(encoding="utf-8"))
