"""A base is what it holds: found again in other files and under other names, and told from everything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw, rewrite, write_tensors

from fusery.registry import Registry
from fusery.registry.errors import AlreadyExistsError
from fusery.registry.models.identity import identify_base
from fusery.registry.registration.add_base import model_files
from fusery.storage.digest import digest_bytes, digest_file
from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import build_header, digest_tensors, read_header

Change = Callable[[Path], object]


def content(folder: Path) -> str:
    return identify_base(model_files(folder), read_object(folder / "config.json")).content


def resharded(folder: Path, shards: int, stem: str = "model", metadata: dict[str, str] | None = None) -> None:
    tensors = dict(reversed(load_raw(folder).items()))
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    names = list(tensors)
    for number in range(shards):
        path = folder / f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        tiny_models.write_tensors(path, {name: tensors[name] for name in names[number::shards]}, metadata)


def edit_json(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**document, **changes}, indent=1), encoding="utf-8")

    return change


def edit_tensor(change: Callable[[Any], Any], name: str = "model.norm.weight", dtype: str = "BF16") -> Change:
    def edit(tensors: dict[str, tiny_models.Raw]) -> None:
        _, value = tensors.pop("model.norm.weight")
        tensors[name] = (dtype, change(value))

    return lambda folder: rewrite(folder, edit)


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "copy")


SAME: dict[str, Change] = {
    "two files": lambda folder: resharded(folder, 2),
    "other metadata": lambda folder: resharded(folder, 1, metadata={"note": "x"}),
    "where it was saved": edit_json("config.json", _name_or_path="/tmp/x", transformers_version="9.9"),
    "tokenizer written otherwise": edit_json("tokenizer.json"),
    "a licence": lambda folder: (folder / "LICENSE.txt").write_text("free"),
}

OTHER: dict[str, Change] = {
    "a bit": edit_tensor(lambda value: value ^ 1),
    "a dtype": edit_tensor(lambda value: value, dtype="F16"),
    "a name": edit_tensor(lambda value: value, "model.norm2.weight"),
    "the configuration": edit_json("config.json", rope_theta=1e6),
    "the tokenizer": edit_json("tokenizer_config.json", model_max_length=17),
    "where generation ends": edit_json("generation_config.json", eos_token_id=1),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_other_files_with_the_same_content_are_one_base(change: Change, copy: Path, tiny_base: Path) -> None:
    change(copy)
    assert content(copy) == content(tiny_base)


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_another_model_has_another_digest(change: Change, copy: Path, tiny_base: Path) -> None:
    change(copy)
    assert content(copy) != content(tiny_base)


def test_digests_of_one_pass_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    sizes, unit = [3, 0, 5, 1], 300_000
    blocks = {f"t{number}": bytes([number + 1]) * (size * unit) for number, size in enumerate(sizes)}
    header = build_header([(name, "U8", (len(data),)) for name, data in blocks.items()])
    path.write_bytes(header + b"".join(blocks.values()))
    whole = read_header(path)
    digest, tensors = digest_tensors(path, whole)
    assert (digest, whole.size) == digest_file(path)
    assert tensors == {name: digest_bytes(data) for name, data in blocks.items()}
    with path.open("ab") as file:  # not the file of the header any more
        file.write(b"more")
    with pytest.raises(FormatError):
        digest_tensors(path, whole)


def test_a_base_in_other_files_gets_a_further_name(registry: Registry, tiny_base: Path, copy: Path) -> None:
    first = registry.bases.add(tiny_base, name="tiny")
    blobs = set(registry.workspace.store.blobs())
    resharded(copy, 3, "model_part")
    second = registry.bases.add(copy, name="org/tiny-resharded", reference=True)
    assert (first.created, first.same_as) == (True, None)
    assert (second.created, second.same_as) == (False, "tiny")
    assert second["names"] == ["tiny", "org/tiny-resharded"]
    assert second["content"] == content(tiny_base)
    assert len(registry.bases.list()) == 1
    assert set(registry.workspace.store.blobs()) == blobs
    assert registry.upkeep.audit().ok


def test_a_taken_name_is_refused_for_other_bytes(registry: Registry, tiny_base: Path, copy: Path) -> None:
    registry.bases.add(tiny_base, name="tiny")
    blobs = set(registry.workspace.store.blobs())
    resharded(copy, 2)
    assert registry.bases.add(copy, name="tiny")["names"] == ["tiny"]
    OTHER["where generation ends"](copy)
    with pytest.raises(AlreadyExistsError):
        registry.bases.add(copy, name="Tiny")
    assert set(registry.workspace.store.blobs()) == blobs
    assert [base["names"] for base in registry.bases.list()] == [["tiny"]]


def test_the_writer_counts_if_tensors_are_rearranged(tmp_path: Path) -> None:
    def content(model_type: str, metadata: dict[str, str] | None) -> str:
        path = tmp_path / "model.safetensors"
        write_tensors(path, {"w": ("F32", np.zeros((2, 2), np.float32))}, metadata)
        return identify_base({path.name: path}, {"model_type": model_type}).content

    mlx, other = {"format": "mlx"}, {"format": "pt"}
    assert content("llama", mlx) == content("llama", other)
    for model_type in ("gpt_oss", "not_known_here"):
        assert content(model_type, mlx) != content(model_type, other) == content(model_type, None)
