from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.storage.errors import FuseryError, MissingFileError


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


def test_parameters_are_those_that_mlx_lm_counts(registry: Registry, tmp_path: Path) -> None:
    import mlx_lm
    from mlx.utils import tree_flatten

    tied = tiny_models.make_base(tmp_path / "tied", kind="qwen2", tied=True, bias=True)
    counted = sum(value.size for _, value in tree_flatten(mlx_lm.load(str(tied))[0].parameters()))
    assert registry.bases.add(tied)["parameters"] == counted
    made = [tiny_models.make_base(tmp_path / f"{bits}", bits=bits) for bits in (None, 4, 8)]
    views = [registry.bases.add(base) for base in made]
    assert len({view["parameters"] for view in views}) == 1, "packed ones are counted unpacked"
    assert [(view["quantization"] or {}).get("bits") for view in views] == [None, 4, 8]


def test_a_base_by_reference_stays_where_it_is_and_can_be_moved(
    registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(tiny_base, tmp_path / "first")
    view = registry.bases.add(first, name="tiny", reference=True)
    assert view["reference"] == str(first.resolve())
    assert list(registry.workspace.store.blobs()) == []
    second = first.rename(tmp_path / "second")
    view = registry.bases.add(second, name="tiny", reference=True)
    assert view["reference"] == str(second.resolve())
    assert registry.upkeep.audit().ok
    assert registry.bases.add(second)["reference"] is None  # added again, it becomes a copy
    assert registry.upkeep.audit().ok
    assert registry.bases.show(view["digest"][:8])["name"] == view["name"]
    with pytest.raises(UnknownReferenceError) as caught:
        registry.bases.show(f"{view['name']}x")
    assert caught.value.hint and view["name"] in caught.value.hint


def test_other_paths_are_refused(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(MissingFileError) as caught:
        registry.bases.add("no/such/folder")
    assert caught.value.hint
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(BadInputError):
        registry.bases.add(tmp_path / "model.gguf")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    messages: list[str] = []
    with pytest.raises(BadInputError) as refused:
        registry.bases.add("team/no-such-model", reporter=Reporter(messages.append))
    assert messages == ["fetching team/no-such-model"]
    assert "team/no-such-model" in refused.value.message


def test_only_what_makes_up_the_model_is_taken(registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "copy")
    companions = {"video_preprocessor_config.json", "processor_config.json", "NOTICE", "LICENCE.txt"}
    for name in ("modeling_tiny.py", "pytorch_model.bin", "notes.txt", ".secret"):
        (folder / name).write_bytes(b"x")
    for name in companions:
        (folder / name).write_text("{}")
    config = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(config + ', "time_step_limit": [0.0, Infinity]}')  # Nemotron-H
    paths = {file["path"] for file in registry.bases.add(folder)["files"]}
    assert paths == {*companions, *(file["path"] for file in registry.bases.add(tiny_base)["files"])}


SPOILT: dict[str, Callable[[Path], object]] = {
    "header": lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "every tensor twice": lambda folder: shutil.copy(
        folder / "model.safetensors", folder / "model-2.safetensors"
    ),
    "a configuration that is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "a named pipe": lambda folder: os.mkfifo(folder / "tokenizer_extra.json"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_damaged_models_are_refused(name: str, registry: Registry, tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "copy")
    SPOILT[name](folder)
    with pytest.raises(MissingFileError if name == "no configuration" else FuseryError):
        registry.bases.add(folder)
    assert registry.bases.list() == []
    assert list(registry.workspace.store.blobs()) == []
