"""`fusery get`: a cached folder, and a folder for git that `register` reads back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fixture_types import Fusery

from .conftest import require_refusals

FACTS = (
    "name", "task", "version", "date", "digest", "method", "rank", "alpha", "scale", "layers", "target_modules",
    "val_loss", "dataset", "examples", "iterations", "tags", "note", "trainable_parameters", "files",
)  # fmt: skip
HOME = ("--registry", "elsewhere")


def require_same(fusery: Fusery, reference: str, *more: str) -> None:
    """Require that both registries have the same facts of an adapter."""
    ours, theirs = (fusery(*where, "show", reference, "--json").json for where in ((), HOME))
    assert [theirs[key] for key in (*FACTS, *more)] == [ours[key] for key in (*FACTS, *more)]


@pytest.fixture
def exported(stocked: Fusery, tmp_path: Path) -> Path:
    """`course_rec@1` as a folder."""
    assert stocked("get", "course_rec@1", tmp_path / "out").code == 0
    return tmp_path / "out" / "adapters_course_rec_v1_20260115"


def test_what_an_exported_folder_holds(stocked: Fusery, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "adapters.safetensors",
        "adapter_config.json",
        "adapter_metadata.json",
        "README.md",
        ".gitattributes",
    }
    said = json.loads((exported / "adapter_metadata.json").read_text())
    assert said["base_model"] == "tiny"
    assert (said["adapter_name"], said["version"], said["training_date"]) == ("course_rec", 1, "2026-01-15")
    assert (said["lora_rank"], said["lora_alpha"], said["final_val_loss"]) == (8, 160.0, 0.61)
    assert "*.safetensors filter=lfs diff=lfs merge=lfs -text" in (exported / ".gitattributes").read_text()
    card = (exported / "README.md").read_text()
    assert 'base_model: "tiny"' in card
    assert "# course_rec_v1_20260115" in card
    assert oct((exported / "README.md").stat().st_mode)[-3:] == "644"


def add_elsewhere(fusery: Fusery, base: Path, name: str = "tiny") -> None:
    """Add a base to another registry."""
    assert fusery(*HOME, "base", "add", base, "--name", name).code == 0


@pytest.mark.parametrize("name", [pytest.param("tiny", marks=pytest.mark.slow), "known-by-its-digest"])
def test_another_registry_reads_it_back(stocked: Fusery, exported: Path, tiny_base: Path, name: str) -> None:
    add_elsewhere(stocked, tiny_base, name)
    came = stocked(*HOME, "register", exported, "--json")
    assert (came.code, came.json["created"]) == (0, True), came.err
    require_same(stocked, "course_rec@1")
    again = stocked(*HOME, "register", exported)
    assert (again.code, again.out.splitlines()[0]) == (0, "Already registered: course_rec_v1_20260115")
    [row] = stocked(*HOME, "list", "--json").json
    assert row["base"] == name
    assert stocked(*HOME, "audit").code == 0


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Return what edits the metadata of a folder."""

    def edit(folder: Path) -> None:
        document = json.loads((folder / "adapter_metadata.json").read_text())
        change(document)
        (folder / "adapter_metadata.json").write_text(json.dumps(document))

    return edit


def flip_last_byte(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def link_outside(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "w")
    (folder / WEIGHTS).symlink_to(folder.parent / "w")


WEIGHTS = "adapters.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
SPOILED: tuple[tuple[Callable[[Path], object], str], ...] = (
    (lambda folder: (folder / "adapter_metadata.json").write_text("{"), "JSON"),
    (edited(lambda document: document["fusery"].update(format="fusery.export.v9")), "not exported by fusery"),
    (edited(lambda document: document["fusery"].update(files=3)), "invalid entry"),
    (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
    (lambda folder: (folder / WEIGHTS).write_text(POINTER), "Git LFS"),
    (flip_last_byte, "changed after the export"),
    (edited(lambda document: document["fusery"].update(digest="0" * 64)), "does not match"),
    (edited(lambda document: document["fusery"]["facts"].update(task="../x")), "wrong name"),
    (link_outside, "outside the folder"),
)


@pytest.mark.slow
def test_a_changed_folder_is_refused(
    stocked: Fusery, exported: Path, tmp_path: Path, tiny_base: Path
) -> None:
    add_elsewhere(stocked, tiny_base)
    for number, (spoil, named) in enumerate(SPOILED):
        copy = shutil.copytree(exported, tmp_path / f"copy{number}" / exported.name)
        spoil(copy)
        require_refusals(stocked, ((*HOME, "register", copy), named))
    assert stocked(*HOME, "list", "--json").json == []


def test_the_base_must_be_there(stocked: Fusery, exported: Path, tmp_path: Path) -> None:
    assert stocked(*HOME, "admin", "init").code == 0
    words = (*HOME, "register", exported)
    require_refusals(stocked, (words, "unknown_reference"), (words, "elsewhere base add SOURCE --name tiny"))
    add_elsewhere(stocked, tiny_models.make_base(tmp_path / "another", seed=7))
    require_refusals(stocked, (words, "--base tiny"))
    assert stocked(*words, "--base", "tiny").code == 0, "another base of that name"


def test_refusals_write_nothing(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    stocked("yank", "course_rec@1", "--reason", "leaked")
    require_refusals(
        stocked,
        ("get course_rec@2 file", "file"),
        ("get course_rec@2 home/store", "store"),
        ("get course_rec@9 out", "unknown_reference"),
        ("get course_rec@1 out", "leaked"),
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_is_printed_and_nothing_else(stocked: Any) -> None:
    done = stocked("get", "course_rec@1")
    assert done.code == 0
    folder = Path(done.out.strip())
    assert (folder / "adapters.safetensors").is_file()
    assert stocked("get", "course_rec@1", "-q").out == done.out
    found = stocked("get", "course_rec@1", "--format", "peft", "--json").json
    assert (found["kind"], found["format"]) == ("adapter", "peft")
    assert (Path(found["path"]) / "adapter_model.safetensors").is_file()
