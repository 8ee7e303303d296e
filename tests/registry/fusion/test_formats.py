"""What an adapter could be shipped as: one row a format, nothing written, and the same choice as `auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sqlalchemy import func, select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, FidelityError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest

FORMATS = (
    "keep",
    "dither",
    "mixed, 5 bits where adapted",
    "mixed, 6 bits where adapted",
    "mixed, 8 bits where adapted",
    "dequantize",
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A 4-bit base, and two adapters whose updates fall between the steps of its quantisation."""
    folder = tmp_path_factory.mktemp("formats")
    base = tiny_models.make_base(folder / "tiny4", bits=4, layers=2)
    first, second = (
        tiny_models.make_adapter(folder / f"small{seed}", base, update=0.02, seed=seed) for seed in (1, 2)
    )
    return base, first, second


@pytest.fixture
def small(registry: Registry, folders: tuple[Path, Path, Path]) -> Registry:
    """A registry with the adapters `small@1` and `small@2` of a 4-bit base."""
    base, *adapters = folders
    registry.bases.add(base, name="tiny4")
    for adapter in adapters:
        registry.adapters.register(adapter, base="tiny4", task="small")
    return registry


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in found["formats"]}


def test_a_quantised_base_has_all_formats_and_nothing_is_written(small: Registry) -> None:
    found = small.fused.formats("small@1")
    assert tuple(rows(found)) == FORMATS
    with small.workspace.database.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.Fused)) == 0
        events = session.scalars(select(tables.Event.action)).all()
    assert "fuse.refused" not in events
    assert small.workspace.cache.entries() == []
    assert all(row["sampled"] and row["reason"] is None for row in found["formats"])


def test_sizes_are_those_of_the_files(small: Registry) -> None:
    found = rows(small.fused.formats("small@1"))
    sizes = [row["bytes"] for row in found.values()]
    assert sizes == sorted(sizes)
    for precision in ("dither", "dequantize"):
        made = small.fused.fuse("small@1", FuseRequest(precision))["weights_bytes"]
        assert found[precision]["bytes"] == pytest.approx(made, rel=0.001)  # the key is in the header
    assert found["keep"]["times_base"] == pytest.approx(1.0, abs=0.01)
    assert found["dequantize"]["times_base"] > 3


def test_the_choice_is_that_of_auto(small: Registry) -> None:
    found = small.fused.formats("small@1")
    (chosen,) = (row for row in found["formats"] if row["chosen"])
    assert found["chosen"] == chosen["format"] == "mixed, 6 bits where adapted"
    assert found["formats"][0]["fidelity"]["verdict"] == "LOST"
    assert small.fused.fuse("small@1")["key"] == chosen["key"]


def test_a_minimum_moves_the_choice(small: Registry) -> None:
    request = FuseRequest(min_fidelity=0.985)
    found = small.fused.formats("small@1", request)
    assert found["chosen"] == "mixed, 8 bits where adapted"
    assert small.fused.fuse("small@1", request)["key"] == rows(found)[found["chosen"]]["key"]


def test_where_every_format_loses_it_nothing_is_chosen(stocked: Registry) -> None:
    request = FuseRequest(scale=1e-4)
    found = stocked.fused.formats("course_rec@1", request)
    assert found["formats"][0]["fidelity"]["verdict"] == "LOST"
    assert found["chosen"] is None
    with pytest.raises(FidelityError):
        stocked.fused.fuse("course_rec@1", request)


def test_a_refused_fuse_is_remembered(small: Registry) -> None:
    with pytest.raises(FidelityError):
        small.fused.fuse("small@1", FuseRequest("keep"))
    row = rows(small.fused.formats("small@1"))["keep"]
    assert row["fidelity"]["verdict"] == "LOST"
    assert row["sampled"] is True


def test_what_is_on_record_is_taken_from_there(small: Registry) -> None:
    small.fused.fuse("small@1")
    row = rows(small.fused.formats("small@1"))["mixed, 6 bits where adapted"]
    assert row["sampled"] is False
    assert row["fidelity"]["retained"] == small.fused.fidelity("small@1")["fidelity"]["retained"]


def test_scale_and_further_adapters_are_those_of_the_fuse(small: Registry) -> None:
    request = FuseRequest(scale=60.0, extras=(("small@2", 0.5),))
    plain, found = small.fused.formats("small@1"), small.fused.formats("small@1", request)
    assert found["scale"] == 60.0
    assert found["with"] == [{"adapter": small.adapters.show("small@2")["name"], "weight": 0.5}]
    assert rows(found)["keep"]["fidelity"]["retained"] > rows(plain)["keep"]["fidelity"]["retained"]
    assert small.fused.fuse("small@1", request)["key"] in [row["key"] for row in found["formats"]]


def test_a_dense_base_has_one_format(stocked: Registry) -> None:
    found = stocked.fused.formats("course_rec@1")
    assert [row["format"] for row in found["formats"]] == ["keep"] == [found["chosen"]]
    assert found["base_bytes"] > 0


def test_a_format_that_does_not_fit_the_base_says_why(registry: Registry, tmp_path: Path) -> None:
    folders = odd_base(tmp_path)
    registry.bases.add(folders[0], name="odd")
    registry.adapters.register(folders[1], base="odd", task="one")
    found = registry.fused.formats("one@1")
    assert {row["format"] for row in found["formats"] if row["reason"]} == set(FORMATS[2:5])
    assert "cannot cut into groups" in found["formats"][2]["reason"]
    assert found["formats"][2]["fidelity"] is None


def odd_base(folder: Path) -> tuple[Path, Path]:
    """A base in nvfp4, whose groups of 16 columns allow for widths that affine groups of 32 do not."""
    base = tiny_models.make_base(folder / "odd", layers=2, hidden=144, intermediate=144)
    random, tensors = np.random.default_rng(0), {}
    for name, (dtype, shape, data) in tiny_models.read_tensors(base).items():
        if len(shape) == 2:
            out, into = shape
            words = random.integers(0, 1 << 32, (out, into // 8), dtype=np.uint32)
            tensors[name] = ("U32", words)
            scales = random.integers(1, 9, (out, into // 16), dtype=np.uint8)
            tensors[name.replace(".weight", ".scales")] = ("U8", scales)
        else:
            tensors[name] = (dtype, np.frombuffer(data, np.uint16).reshape(shape))
    tiny_models.write_tensors(base / "model.safetensors", tensors, {"format": "mlx"})
    config = json.loads((base / "config.json").read_text())
    config["quantization"] = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    (base / "config.json").write_text(json.dumps(config))
    return base, tiny_models.make_adapter(folder / "adapter", base)


@pytest.mark.parametrize(
    "wanted", [FuseRequest("keep"), FuseRequest(quantize=4), FuseRequest(budget=1.2), FuseRequest(seed=1)]
)
def test_a_format_cannot_be_asked_for(stocked: Registry, wanted: FuseRequest) -> None:
    with pytest.raises(BadInputError, match="none can be asked for"):
        stocked.fused.formats("course_rec@1", wanted)


def test_an_unknown_adapter(stocked: Registry) -> None:
    with pytest.raises(UnknownReferenceError):
        stocked.fused.formats("course_rec@9")
