"""Whole tensors in an adapter that are the base's own are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.adapters.whole import COPY, QUANTISED_COPY, likenesses
from fusery.registry.engine.base import Base, read_sources
from fusery.storage.jsonfile import read_object

HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


def stored(base: Path, name: str) -> tiny_models.Raw:
    dtype, shape, data = tiny_models.read_tensors(base)[name]
    return dtype, np.frombuffer(data, {"BF16": "<u2", "F16": "<u2", "F32": "<f4"}[dtype]).reshape(shape)


def add(folder: Path, tensors: dict[str, tiny_models.Raw]) -> None:
    peft_folders.edit_tensors(folder, lambda own: own.update(tensors))


def widened(raw: tiny_models.Raw) -> tiny_models.Raw:
    return "F32", (raw[1].astype(np.uint32) << 16).view(np.float32)


def changed(raw: tiny_models.Raw) -> tiny_models.Raw:
    bits = raw[1].copy()
    bits.flat[-1] += 1
    return raw[0], bits


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return peft_folders.make_peft(tmp_path / "adapter", tiny_base, rank=2)


COPIES: list[tuple[str, str, list[str] | None]] = [
    ("base_model.model.model.embed_tokens.weight", EMBEDDING, None),
    ("base_model.model.lm_head.base_layer.weight", HEAD, None),
    ("base_model.model.lm_head.modules_to_save.weight", HEAD, ["lm_head"]),
    ("base_model.model.lm_head.weight", HEAD, ["lm_head"]),
    ("base_model.model.model.norm.modules_to_save.default.weight", NORM, ["norm"]),
]


def test_copies_change_nothing_and_are_left_out(
    sqlite_registry: Registry, tiny_base: Path, adapter: Path, tmp_path: Path
) -> None:
    sqlite_registry.bases.add(tiny_base, name="tiny")
    folders = []
    for number, (name, whole, saved) in enumerate(COPIES):
        folder = peft_folders.make_peft(tmp_path / f"copy-{number}", tiny_base, rank=2)
        copy = stored(tiny_base, whole)
        add(folder, {name: copy if number % 2 else widened(copy)})
        peft_folders.edit_config(folder, modules_to_save=saved)
        found = sqlite_registry.adapters.check(folder, base="tiny", task="copies")
        assert {finding.severity for finding in found} == {"info"}, name
        (copies,) = [finding for finding in found if finding.code == "peft_copies"]
        assert copies.message.endswith(f"left out: {whole}")
        folders.append(folder)
    sqlite_registry.adapters.register(adapter, base="tiny", task="plain")
    expected = tiny_models.read_tensors(sqlite_registry.fused.fuse("plain@1").path)
    for number, folder in enumerate(folders):
        made = sqlite_registry.adapters.register(folder, base="tiny", task="copies").name
        assert tiny_models.read_tensors(sqlite_registry.fused.fuse(made).path) == expected, COPIES[number]
    for target in ("hub", "vllm"):
        sqlite_registry.bundles.materialize(made, tmp_path / target, target=target, content="adapters")
    sqlite_registry.exchange.export(made, tmp_path / "exported")


def test_a_copy_beside_something_trained_is_left_out_alone(
    sqlite_registry: Registry, tiny_base: Path, adapter: Path
) -> None:
    head, norm = stored(tiny_base, HEAD), changed(stored(tiny_base, NORM))
    add(adapter, {"base_model.model.lm_head.weight": head, "base_model.model.model.norm.weight": norm})
    peft_folders.edit_config(adapter, modules_to_save=["lm_head", "model.norm"])
    sqlite_registry.bases.add(tiny_base, name="tiny")
    found = sqlite_registry.adapters.check(adapter, base="tiny", task="other")
    said = {finding.code: finding.message for finding in found}
    assert said["peft_copies"].endswith(f"left out: {HEAD}")
    assert NORM in said["peft_whole_tensors"]
    assert HEAD not in said["peft_whole_tensors"]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_quantised_base_knows_what_it_was_quantised_from(bits: int, tmp_path: Path) -> None:
    dense, packed = (
        tiny_models.make_base(tmp_path / "dense"),
        tiny_models.make_base(tmp_path / "4", bits=bits),
    )
    copy = stored(dense, EMBEDDING)
    assert ask(packed, tmp_path, EMBEDDING, copy) == QUANTISED_COPY
    assert ask(packed, tmp_path, EMBEDDING, ("BF16", copy[1][::-1].copy())) is None
    assert ask(packed, tmp_path, EMBEDDING, widened(copy)) == QUANTISED_COPY
    finer = widened(copy)[1] * np.float32(1.0001)
    assert ask(packed, tmp_path, EMBEDDING, ("F32", finer)) is None  # quantised from other numbers
    assert ask(packed, tmp_path, EMBEDDING, ("BF16", copy[1][:-1])) is None
    assert ask(packed, tmp_path, NORM, stored(dense, NORM)) == COPY


def test_the_head_of_a_tied_base_is_its_embedding(tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tied", tied=True)
    assert ask(base, tmp_path, HEAD, stored(base, EMBEDDING)) == COPY
    assert ask(base, tmp_path, HEAD, changed(stored(base, EMBEDDING))) is None


def test_what_the_base_does_not_have_cannot_be_compared(tiny_base: Path, tmp_path: Path) -> None:
    raw = stored(tiny_base, EMBEDDING)
    assert ask(tiny_base, tmp_path, "model.strange.weight", raw) is None
    assert ask(tiny_base, tmp_path, EMBEDDING, ("BF16", raw[1][:-1])) is None
    assert ask(tiny_base, tmp_path, EMBEDDING, ("I32", np.zeros((2, 2), np.int32))) is None


def ask(base: Path, scratch: Path, name: str, tensor: Any) -> str | None:
    file = scratch / "adapter_model.safetensors"
    tiny_models.write_tensors(file, {f"base_model.model.{name}": tensor}, None)
    files = {path.name: path for path in base.iterdir()}
    own = Base(files, read_object(base / "config.json"), read_sources(files)[0], all_linear=False)
    found = likenesses(own, file, [f"base_model.model.{name}"])
    return found.get(f"base_model.model.{name}")


@pytest.mark.parametrize("bits", [None, 4])
def test_what_peft_adds_by_itself_is_a_copy(
    bits: int | None, sqlite_registry: Registry, tiny_base: Path, adapter: Path, tmp_path: Path
) -> None:
    """Trained on the dense base, and registered on it or on its 4-bit twin."""
    peft_folders.real_peft("copied", tiny_base, adapter, tmp_path / "copied")
    base = tiny_base if bits is None else tiny_models.make_base(tmp_path / "4", bits=bits)
    peft_folders.edit_config(tmp_path / "copied", base_model_name_or_path="b")
    sqlite_registry.bases.add(base, name="b")
    found = sqlite_registry.adapters.check(tmp_path / "copied", base="b", task="copies", dataset="none")
    assert {finding.severity for finding in found} == {"info"}
    (copies,) = [finding for finding in found if finding.code == "peft_copies"]
    assert EMBEDDING in copies.message
    assert ("quantised from" in copies.message) is (bits is not None)
