from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from fusery.registry.workspace import Workspace
from fusery.storage.errors import FormatError, FuseryError, MissingFileError, StoreMismatchError


def test_a_base_is_stored_with_its_facts(registry: Registry, tiny_base: Path) -> None:
    view = registry.bases.add(tiny_base)
    assert view["name"] == "tiny"
    assert view["architecture"] == "LlamaForCausalLM"
    assert view["dtype"] == "bf16"
    assert view["quantization"] is None
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file["path"] for file in view["files"]}
    store = registry.workspace.store
    for file in view["files"]:
        store.verify(file["sha256"], file["size"])


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_parameters_are_counted_unpacked(bits: int | None, registry: Registry, tmp_path: Path) -> None:
    dense = registry.bases.add(tiny_models.make_base(tmp_path / "dense"))["parameters"]
    base = tiny_models.make_base(tmp_path / "base", bits=bits)
    view = registry.bases.add(base, name="packed")
    assert view["parameters"] == dense
    assert (view["quantization"] or {}).get("bits") == bits


def test_parameters_are_what_mlx_lm_counts(registry: Registry, tmp_path: Path) -> None:
    import mlx_lm
    from mlx.utils import tree_flatten

    base = tiny_models.make_base(tmp_path / "base", kind="qwen2", tied=True, bias=True)
    model = mlx_lm.load(str(base))[0]
    counted = sum(value.size for _, value in tree_flatten(model.parameters()))
    assert registry.bases.add(base)["parameters"] == counted


def test_the_same_bytes_under_another_name_are_one_base(registry: Registry, tiny_base: Path) -> None:
    first = registry.bases.add(tiny_base, name="tiny")
    second = registry.bases.add(tiny_base, name="Org/Tiny-Model")
    assert (first.created, second.created) == (True, False)
    assert second["names"] == ["tiny", "Org/Tiny-Model"]
    assert len(registry.bases.list()) == 1
    assert registry.bases.show("org/tiny-model")["digest"] == first["digest"]


def test_another_model_under_a_taken_name_is_refused(
    registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    registry.bases.add(tiny_base, name="tiny")
    other = tiny_models.make_base(tmp_path / "other", seed=5)
    with pytest.raises(AlreadyExistsError) as caught:
        registry.bases.add(other, name="TINY")
    assert caught.value.hint == "give another one with --name"
    assert len(registry.bases.list()) == 1


def test_a_base_by_reference_stays_where_it_is(registry: Registry, tiny_base: Path) -> None:
    view = registry.bases.add(tiny_base, reference=True)
    assert view["reference"] == str(tiny_base.resolve())
    assert list(registry.workspace.store.blobs()) == []


def test_a_reference_becomes_a_copy_when_it_is_added_again(registry: Registry, tiny_base: Path) -> None:
    registry.bases.add(tiny_base, reference=True)
    assert registry.bases.add(tiny_base)["reference"] is None
    assert registry.upkeep.audit().ok


def test_only_what_makes_up_the_model_is_taken(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "copy")
    for name in ("modeling_tiny.py", "pytorch_model.bin", "notes.txt", ".secret"):
        (folder / name).write_bytes(b"x")
    paths = {file["path"] for file in registry.bases.add(folder)["files"]}
    assert paths == {file["path"] for file in registry.bases.add(tiny_base)["files"]}


def spoil_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def twice_the_tensors(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model-2.safetensors")


def config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (spoil_header, FormatError),
        (without_config, MissingFileError),
        (without_weights, FormatError),
        (twice_the_tensors, FormatError),
        (config_is_a_list, FormatError),
    ],
)
def test_what_is_no_model_is_refused_and_nothing_stored(
    spoil: object, error: type[FuseryError], registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "copy")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(error):
        registry.bases.add(folder)
    assert registry.bases.list() == []
    assert list(registry.workspace.store.blobs()) == []


def test_a_path_that_is_not_there_is_one_sentence(registry: Registry) -> None:
    with pytest.raises(MissingFileError) as caught:
        registry.bases.add("no/such/folder")
    assert caught.value.hint


def test_a_file_that_is_no_gguf_is_refused(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(BadInputError):
        registry.bases.add(path)


def test_an_unknown_base_names_the_nearest(registry: Registry, tiny_base: Path) -> None:
    registry.bases.add(tiny_base, name="SmolLM2-135M")
    with pytest.raises(UnknownReferenceError) as caught:
        registry.bases.show("smollm2-135")
    assert caught.value.hint == "did you mean SmolLM2-135M?"


def test_a_digest_prefix_means_the_base(registry: Registry, tiny_base: Path) -> None:
    view = registry.bases.add(tiny_base)
    assert registry.bases.show(view["digest"][:8])["name"] == view["name"]


@pytest.mark.skipif(os.geteuid() != 0 and not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_folder_is_refused(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "copy")
    os.mkfifo(folder / "tokenizer_extra.json")
    with pytest.raises(FuseryError):
        registry.bases.add(folder)


def test_a_base_by_reference_can_be_moved(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    first = shutil.copytree(tiny_base, tmp_path / "first")
    registry.bases.add(first, name="tiny", reference=True)
    first.rename(tmp_path / "second")
    view = registry.bases.add(tmp_path / "second", name="tiny", reference=True)
    assert view["reference"] == str((tmp_path / "second").resolve())
    assert registry.upkeep.audit().ok


def test_another_store_is_not_adopted(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    registry.bases.add(tiny_base)
    settings = registry.workspace.settings
    other = Registry(Workspace(replace(settings, store_url=str(tmp_path / "elsewhere"))))
    with other, pytest.raises(StoreMismatchError):
        other.bases.add(tiny_base, name="again")
    assert not (tmp_path / "elsewhere").exists()
