"""What is not on record: models of the same shape, random files, and files made to break a reader."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import altered_models
import numpy as np
import pytest
import tiny_models
from kept_registries import FIRST, LLAMA, Museum

from fusery.storage.errors import FormatError, FuseryError, MissingFileError, UnsafePathError


def foreign_model(folder: Path, **settings: object) -> Path:
    """Write a model of the shapes that are on record, with weights of its own."""
    return tiny_models.make_base(folder, **{"layers": 3, "seed": 99, **settings})  # type: ignore[arg-type]


def flat_norms(folder: Path) -> Path:
    """Write a model whose norms are all ones, as those of many are, and on record as well."""
    source = foreign_model(folder / "source", seed=98)

    def flat(tensors: altered_models.Tensors) -> altered_models.Tensors:
        return {
            name: (dtype, np.full_like(values, 0x3F80) if values.ndim == 1 else values)
            for name, (dtype, values) in tensors.items()
        }

    return altered_models.saved_anew(source, folder / "x", flat)


def written(data: bytes, name: str = "file.bin") -> Callable[[Path], Path]:
    """Return what writes a file."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def empty(folder: Path) -> Path:
    """Make a folder with nothing in it."""
    (folder / "x").mkdir()
    return folder / "x"


def companions(folder: Path) -> Path:
    """Write the tokenizer of what is on record, and no weights."""
    source = foreign_model(folder / "source")
    for file in source.glob("*.safetensors"):
        file.unlink()
    (source / "config.json").unlink()
    return source


UNKNOWN: dict[str, Callable[[Path], Path]] = {
    "same shapes": foreign_model,
    "qwen": lambda folder: foreign_model(folder / "x", kind="qwen2", dtype="float32", tied=True),
    "hf": lambda folder: foreign_model(folder / "x", layout="hf"),
    "flat norms": flat_norms,
    "adapter": lambda folder: tiny_models.make_adapter(folder / "a", foreign_model(folder / "b"), seed=55),
    "gguf": lambda folder: altered_models.as_gguf(foreign_model(folder / "x"), folder / "x.gguf", "q8_0"),
    "text": written(b"hello\n", "README.md"),
    "empty folder": empty,
    "companions": companions,
}


def test_models_that_are_not_on_record_are_unknown(museum: Museum, tmp_path: Path) -> None:
    for kind, make in UNKNOWN.items():
        (tmp_path / kind).mkdir()
        found = museum.registry.provenance.identify(make(tmp_path / kind))
        assert (found.verdict, found.matches, found.intact) == ("unknown", (), False), kind


HOSTILE: dict[str, tuple[bytes, str]] = {
    "safetensors": (struct.pack("<Q", 1 << 62) + b"{}", "longer than the file"),
    "safetensors deep": (struct.pack("<Q", 40000) + b'{"' + b"[" * 40000, "safetensors"),
    "gguf": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60), "tensors, more than"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_leave_nothing(museum: Museum, tmp_path: Path, kind: str) -> None:
    data, why = HOSTILE[kind]
    path = tmp_path / ("x.safetensors" if kind.startswith("safetensors") else "x")
    path.write_bytes(data)
    with pytest.raises(FuseryError, match=why) as refused:
        museum.registry.provenance.identify(path)
    assert "\n" not in refused.value.message
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert list((museum.registry.workspace.settings.cache / "tmp").iterdir()) == []


@pytest.mark.parametrize("start", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", bytes(257) + b"ustar"])
def test_an_archive_that_is_not_on_record_is_not_unpacked(
    museum: Museum, tmp_path: Path, start: bytes
) -> None:
    (tmp_path / "x").write_bytes(start + bytes(600))
    found = museum.registry.provenance.identify(tmp_path / "x")
    assert (found.kind, found.verdict) == ("archive", "inconclusive")
    assert "unpack" in found.problems[0]


def test_a_folder_is_told_although_a_file_of_it_is_damaged(museum: Museum, tmp_path: Path) -> None:
    copy = altered_models.saved_anew(museum.originals[LLAMA], tmp_path / "x", shards=3)
    (copy / "part-1.safetensors").write_bytes((copy / "part-1.safetensors").read_bytes()[:-100])
    found = museum.registry.provenance.identify(copy)
    assert found.matches[0].name == LLAMA
    assert "part-1.safetensors" in found.problems[0]
    assert not found.intact


def test_a_file_of_holes_is_not_hashed(museum: Museum, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}).encode()
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 40))
    with pytest.raises(UnsafePathError):
        museum.registry.provenance.identify(path)


def test_nothing_at_the_path_and_a_link_out_of_a_folder(museum: Museum, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("nowhere", "pipe"):
        with pytest.raises(MissingFileError):
            museum.registry.provenance.identify(tmp_path / name)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.safetensors").symlink_to(museum.originals[LLAMA] / "model.safetensors")
    with pytest.raises(UnsafePathError):
        museum.registry.provenance.identify(tmp_path / "x")


def test_documents_that_lie_about_their_kind_are_passed_over(museum: Museum, tmp_path: Path) -> None:
    copy = altered_models.saved_anew(museum.originals[FIRST], tmp_path / "x")
    for name, text in (
        (
            "fusery.json",
            json.dumps({"format": "fusery.bundle.v1", "files": 7, "adapters": [1], "provenance": []}),
        ),
        ("adapter_metadata.json", "[" * 1000),
    ):
        (copy / name).write_text(text)
    found = museum.registry.provenance.identify(copy)
    assert (found.matches[0].name, found.claims) == (FIRST, ())
    assert "adapter_metadata.json" in found.problems[0]
    with pytest.raises(FormatError):
        museum.registry.provenance.identify(written(b"GGUF\x03")(tmp_path))
