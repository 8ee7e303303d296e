"""A model is whole and its configuration fits into the record, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry.models.architecture import architecture_of, read_architecture
from fusery.registry.models.libraries import (
    HEAD,
    ExpertLayout,
    every_name,
    in_mlx,
    in_transformers,
    prefix_of,
)
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.safetensors import Tensor


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


def write_index(folder: Path, content: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tiny_models.make_base(tmp_path / "tiny", shards=3)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    return folder


def test_a_part_that_its_number_promises_is_missing(sharded: Path) -> None:
    assert len(read_architecture(sharded).layers()) == 4
    (sharded / "model-00003-of-00003.safetensors").rename(sharded / "model-00000-of-00003.safetensors")
    assert len(read_architecture(sharded).layers()) == 4, "parts may count from zero"
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MissingFileError):
        read_architecture(sharded)


def test_a_file_that_the_index_names_is_missing(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "tiny")
    write_index(folder, {"weight_map": {"a": "model.safetensors", "b": "model-extra.safetensors"}})
    with pytest.raises(MissingFileError, match=r"model-extra\.safetensors"):
        read_architecture(folder)
    write_index(folder, {"weight_map": {"a": "model.safetensors"}})
    assert read_architecture(folder).model_type == "llama"
    for content in ({}, {"weight_map": []}, {"weight_map": {"a": 1}}):
        write_index(folder, content)
        with pytest.raises(FormatError):
            read_architecture(folder)


def test_configurations_that_fit_no_record_are_refused(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"architectures": ["A" * 201]},
        {"architectures": [{"a": 1}]},
        {"model_type": "m" * 101},
    ]
    changes += [{"model_type": 7}, {"note": "a\0b"}, {"note": ["\ud800"]}, {"deep": {"a\0b": 1}}]
    for number, change in enumerate(changes):
        folder = edit(tiny_models.make_base(tmp_path / f"{number}"), **change)
        with pytest.raises(FormatError, match=r"config\.json"):
            read_architecture(folder)
    folder = edit(
        tiny_models.make_base(tmp_path / "longest"), architectures=["A" * 200], model_type="m" * 100
    )
    found = read_architecture(folder)
    assert (len(found.name), len(found.model_type)) == (200, 100)


def test_names_of_language_models() -> None:
    assert in_transformers(HEAD) == "lm_head"
    assert in_transformers(HEAD, "language_model.model.") == HEAD
    assert in_transformers("language_model.model.norm") == "model.language_model.norm"
    assert in_mlx("lm_head", {HEAD}) == HEAD
    assert (in_mlx("lm_head", ()), in_mlx("other", {HEAD})) == ("lm_head", "other")
    norms = {"model.language_model.norm", "language_model.model.norm", "model.norm"}
    for name in norms:
        assert in_mlx(name, {"language_model.model.norm"}) == "language_model.model.norm"
        assert in_mlx(name, ()) == name
        assert set(every_name(name)) == norms
    assert set(every_name("lm_head.weight")) == {"lm_head.weight", f"{HEAD}.weight"}
    assert list(every_name("norm")) == ["norm"]
    assert [prefix_of([path]) for path in ("model.x", "language_model.model.x", "x")] == [
        "model.", "language_model.model.", "model.language_model.",
    ]  # fmt: skip


def test_rows_of_experts() -> None:
    halves, turns = ExpertLayout(), ExpertLayout(interleaved=True)
    rows = list(range(6))
    for layout, gate, up in ((halves, [0, 1, 2], [3, 4, 5]), (turns, [0, 2, 4], [1, 3, 5])):
        found = [rows[layout.rows(name, 6)] for name in ("gate_proj", "up_proj", "down_proj")]
        assert found == [gate, up, rows]


def test_packed_weights() -> None:
    def shape(quantization: dict[str, Any] | None, scales: str = "F16") -> Any:
        shapes = {"m.weight": ("U32", (4, 16)), "m.scales": (scales, (4, 2)), "m.biases": (scales, (4, 2))}
        tensors = {name: Tensor(name, dtype, size, 0, 0) for name, (dtype, size) in shapes.items()}
        found = architecture_of({"quantization": quantization}, tensors)
        assert found.parameters == 4 * found.weights["m"].shape[1]
        return found.weights["m"].shape[1], found.weights["m"].bits, found.dtype

    assert shape(None) == (128, 4, "f16")
    assert shape({"bits": 8, "m": {"bits": 2}}, "U8") == (256, 2, "bf16")
    for bits in (7, 3, "4"):
        with pytest.raises(FormatError, match="bits"):
            shape({"bits": bits})


def test_a_tied_head_counts_once() -> None:
    names = ("model.embed_tokens.weight", "lm_head.weight")
    tensors = {name: Tensor(name, "F16", (2, 3), 0, 0) for name in names}
    for tied, parameters in ((True, 6), (False, 12)):
        found = architecture_of({"tie_word_embeddings": tied}, tensors)
        assert (found.parameters, "lm_head" in found.weights) == (parameters, not tied)
