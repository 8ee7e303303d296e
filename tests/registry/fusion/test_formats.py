"""What an adapter could be shipped as: one row a format, nothing written, and the same choice as `auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
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
    folder = tmp_path_factory.mktemp("formats")
    base = tiny_models.make_base(folder / "tiny4", bits=4, layers=2)
    first, second = (
        tiny_models.make_adapter(folder / f"small{seed}", base, update=0.02, seed=seed) for seed in (1, 2)
    )
    return base, first, second


@pytest.fixture
def small(registry: Registry, folders: tuple[Path, Path, Path]) -> Registry:
    base, *adapters = folders
    registry.bases.add(base, name="tiny4")
    for adapter in adapters:
        registry.adapters.register(adapter, base="tiny4", task="small")
    return registry


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in found["formats"]}


def test_all_formats_of_a_quantised_base(small: Registry) -> None:
    with pytest.raises(FidelityError):
        small.fused.fuse("small@1", FuseRequest("keep"))
    logged = len(small.upkeep.log())
    found = small.fused.formats("small@1")
    by_format = rows(found)
    assert tuple(by_format) == FORMATS
    assert len(small.upkeep.log()) == logged and small.fused.list() == []
    assert small.workspace.cache.entries() == []
    assert all(row["sampled"] and row["reason"] is None for row in found["formats"])
    assert by_format["keep"]["fidelity"]["verdict"] == "LOST"
    sizes = [row["bytes"] for row in by_format.values()]
    assert sizes == sorted(sizes)
    assert by_format["keep"]["times_base"] == pytest.approx(1.0, abs=0.01)
    assert by_format["dequantize"]["times_base"] > 3
    for precision in ("dither", "dequantize"):
        made = small.fused.fuse("small@1", FuseRequest(precision))["weights_bytes"]
        # Only the header, which holds the cache key, may differ in size.
        assert by_format[precision]["bytes"] == pytest.approx(made, rel=0.001)


def test_the_choice_is_that_of_auto(small: Registry) -> None:
    for request, expected in (
        (FuseRequest(), "mixed, 6 bits where adapted"),
        (FuseRequest(min_fidelity=0.985), "mixed, 8 bits where adapted"),
    ):
        found = small.fused.formats("small@1", request)
        (chosen,) = (row for row in found["formats"] if row["chosen"])
        assert found["chosen"] == chosen["format"] == expected
        assert small.fused.fuse("small@1", request)["key"] == chosen["key"]
        # This format has been fused: its row is read from the record, not estimated from a sample.
        row = rows(small.fused.formats("small@1", request))[expected]
        assert row["sampled"] is False
        assert row["fidelity"]["retained"] == small.fused.fidelity(chosen["key"])["fidelity"]["retained"]


def test_where_every_format_loses_it_nothing_is_chosen(stocked: Registry) -> None:
    request = FuseRequest(scale=1e-4)
    found = stocked.fused.formats("course_rec@1", request)
    assert found["formats"][0]["fidelity"]["verdict"] == "LOST"
    assert found["chosen"] is None
    with pytest.raises(FidelityError):
        stocked.fused.fuse("course_rec@1", request)


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


def test_a_format_cannot_be_asked_for(stocked: Registry) -> None:
    for wanted in (
        FuseRequest("keep"),
        FuseRequest(quantize=4),
        FuseRequest(budget=1.2),
        FuseRequest(seed=1),
    ):
        with pytest.raises(BadInputError):
            stocked.fused.formats("course_rec@1", wanted)
    with pytest.raises(UnknownReferenceError):
        stocked.fused.formats("course_rec@9")
