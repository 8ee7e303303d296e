from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models

from fusery.registry import BadInputError, FuseRequest, Registry, UnknownReferenceError
from fusery.registry.records.bases import base_folder
from fusery.storage.errors import OutOfSpaceError

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_adapters_and_bases_have_folders_that_stay(stocked: Registry, tiny_base: Path) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    assert names(folder) == ["adapter_config.json", "adapters.safetensors"]
    assert stocked.adapters.folder("course_rec@1") == folder
    assert not (folder / "adapters.safetensors").stat().st_mode & 0o222
    other = stocked.adapters.folder("course_rec@1", format="peft")
    given = stocked.folder("course_rec@1")
    assert (given.kind, given.path, given.format) == ("adapter", folder, "mlx")
    assert names(other) == ["adapter_config.json", "adapter_model.safetensors"]
    with base_folder(stocked.workspace, "tiny") as links:
        assert (links / "config.json").is_symlink() and names(links) == names(tiny_base)
    base = stocked.bases.folder("tiny")
    assert (base / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()
    assert {entry.path for entry in stocked.cache.contents().entries} == {folder, other, base}
    assert [row["key"] for row in stocked.cache.pin(folder.name)] == [folder.name]
    stocked.cache.prune(0)
    assert folder.exists() and not base.exists()
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    with pytest.raises(BadInputError, match="wrong data"):
        stocked.adapters.folder("course_rec@1")


def test_a_damaged_folder_is_made_anew(stocked: Registry) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    weights = folder / "adapters.safetensors"
    right = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert stocked.adapters.folder("course_rec@1") == folder
    assert weights.read_bytes() == right


def test_a_fused_model_is_found_by_its_key_while_it_is_here(stocked: Registry) -> None:
    made = stocked.fused.fuse("course_rec@1", FuseRequest(accept_loss=True))
    found = stocked.folder(made.key[:12])
    assert (found.kind, found.path, found.name) == ("fused", made.path, made.label)
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    assert len(stocked.folder(made.key).withdrawals) == 1
    stocked.cache.prune(0)
    with pytest.raises(UnknownReferenceError) as refused:
        stocked.folder(made.key[:12])
    assert refused.value.hint == f"fusery fuse {made.adapter} --recipe {made.key}"


def test_what_has_no_folder_is_an_error(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for reference, form in (("tiny", "mlx"), ("course_rec@1", "gguf"), ("nothing@1", None)):
        with pytest.raises((BadInputError, UnknownReferenceError)):
            stocked.folder(reference, format=form)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(OutOfSpaceError):
        stocked.adapters.folder("course_rec@1")


def test_what_lies_beside_a_referenced_base_is_not_loaded_with_it(registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "mine")
    registry.bases.add(base, reference=True)
    (base / "README.md").write_text("of no harm")
    assert registry.bases.folder("mine") == base.resolve()
    (base / "model-extra.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    folder = registry.bases.folder("mine")
    assert folder != base.resolve()
    assert "model-extra.safetensors" not in names(folder)


def test_a_folder_that_was_just_handed_out_stays_whatever_the_limit(stocked: Registry) -> None:
    stocked.workspace.settings = replace(stocked.workspace.settings, cache_limit=0)
    base, adapter = stocked.bases.folder("tiny"), stocked.adapters.folder("course_rec@1")
    assert (base / "config.json").exists()
    assert (adapter / "adapters.safetensors").exists()
