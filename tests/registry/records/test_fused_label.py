"""What fused artifacts are called: no two of one adapter alike, in any view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.cli import graphs
from fusery.registry import Registry
from fusery.registry.engine.recipe import ENGINE, Recipe, artifact_key
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.records.fused_label import combined, describe, label, names
from fusery.storage.digest import digest_json

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
DIGESTS = st.integers(0, 2**64).map(digest_json)
ADAPTERS = {f"{number:02x}" * 32: f"task{number}_v1_20260101" for number in range(4)}
CLOSE = st.sampled_from([1.0, 1.0000000000000002, 0.1, 0.1 + 0.2, 0.3, 10.0, -0.5, 0.0, -0.0])


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """What a fuse may be asked for, and more."""
    precision = draw(st.sampled_from(["keep", "dither", "mixed", "dequantize"]))
    shape = st.fixed_dictionaries(
        {
            "bits": st.sampled_from([2, 3, 4, 6, 8]),
            "group_size": st.sampled_from([16, 32, 64]),
            "mode": st.sampled_from(["affine", "mxfp4", "nvfp4"]),
        }
    )
    modules = st.dictionaries(st.sampled_from(["", "a.b", "a.c"]), st.sampled_from([5, 6, 8]), max_size=3)
    return Recipe(
        precision,
        engine=draw(
            st.sampled_from([ENGINE, "canonical-2", f"{ENGINE}; mlx-lm 0.28.1", f"{ENGINE}; mlx-lm 0.28.2"])
        ),
        quantization=draw(st.none() | shape) if precision == "dequantize" else None,
        scale=draw(st.none() | CLOSE | NUMBERS),
        seed=draw(st.integers(0, 5)) if precision == "dither" else None,
        bits=draw(modules) if precision == "mixed" else {},
        calibration=draw(st.none() | DIGESTS) if precision in ("dither", "mixed") else None,
        fitted=draw(st.booleans()) if precision == "dither" else False,
        extras=tuple(draw(st.lists(st.tuples(st.sampled_from(list(ADAPTERS)), CLOSE), max_size=2))),
    )


def called(recipe: Recipe) -> str:
    return label("own_v1_20260101", recipe, [(ADAPTERS[digest], weight) for digest, weight in recipe.extras])


@given(recipes(), recipes())
@settings(max_examples=400, deadline=None)
def test_two_artifacts_of_one_adapter_are_never_called_the_same(one: Recipe, other: Recipe) -> None:
    same = artifact_key("a" * 64, "b" * 64, one) == artifact_key("a" * 64, "b" * 64, other)
    assert (called(one) == called(other)) == same


@given(recipes(), st.data())
@settings(max_examples=150, deadline=None)
def test_one_choice_is_enough_to_be_called_otherwise(recipe: Recipe, data: st.DataObject) -> None:
    """Pairs that differ in little, which two recipes at random hardly ever do."""
    changes: dict[str, Any] = {
        "scale": data.draw(CLOSE),
        "engine": f"{ENGINE}; mlx-lm 0.29.0",
        "extras": (*recipe.extras, (next(iter(ADAPTERS)), 0.5)),
    }
    if recipe.precision == "dither":
        changes |= {"seed": (recipe.seed or 0) + 1, "fitted": not recipe.fitted}
    if recipe.precision == "mixed":
        changes["bits"] = {**recipe.bits, "z": 8}
    name = data.draw(st.sampled_from(list(changes)))
    other = replace(recipe, **{name: changes[name]})
    if artifact_key("a" * 64, "b" * 64, other) != artifact_key("a" * 64, "b" * 64, recipe):
        assert called(other) != called(recipe)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe("keep"), "keep"),
        (
            Recipe("dequantize", quantization={"bits": 4, "group_size": 64, "mode": "affine"}),
            "requantised to 4 bits, affine, groups of 64",
        ),
        (Recipe("dither", seed=0), "dither"),
        (Recipe("dither", seed=3, calibration="1a2b3c4d" * 8), "dither, seed 3, calibration 1a2b3c4d"),
        (
            Recipe("dither", calibration="1a2b3c4d" * 8, fitted=True),
            "dither, calibration 1a2b3c4d, fitted",
        ),
        (Recipe("mixed", bits={"": 6}), "mixed, 6 bits where adapted"),
        (Recipe("keep", rounding="once"), "keep, rounded once"),
        (Recipe("keep", engine=f"{ENGINE}; mlx-lm 0.28.1, mlx 0.30.0"), "keep, by mlx-lm 0.28.1, mlx 0.30.0"),
    ],
    ids=str,
)
def test_in_words(recipe: Recipe, words: str) -> None:
    assert describe(recipe) == words


def test_the_sum() -> None:
    assert combined("a", 10.0, [("b", 0.5), ("c", -1.0)]) == "a (scale 10) + 0.5 x b + -1 x c"
    assert names("a", Recipe("keep", scale=0.1), [])["label"] == "a (scale 0.1) (keep)"


@pytest.fixture
def several(registry: Registry, tmp_path: Path) -> tuple[Registry, set[str]]:
    """A registry on a 4-bit base, with an adapter fused in many ways; and the labels of what was fused."""
    base = tiny_models.make_base(tmp_path / "few", layers=2, bits=4, group_size=32)
    registry.bases.add(base, name="few")
    for seed, task in enumerate(("own", "other"), 1):
        folder = tiny_models.make_adapter(tmp_path / task, base, seed=seed, rank=4)
        registry.adapters.register(folder, base="few", task=task, date="20260101")
    ways: list[dict[str, Any]] = [
        *({"precision": name} for name in ("keep", "dither", "dequantize")),
        *({"precision": "keep", "scale": scale} for scale in (5.0, 5.0000001)),
        {"precision": "keep", "scale": 5.0, "extras": (("other@1", 0.5),)},
        *({"quantize": 4, "group_size": size} for size in (32, 64)),
    ]
    labels = [
        registry.fused.fuse("own@1", FuseRequest(**way, accept_loss=True)).to_dict()["label"] for way in ways
    ]
    assert len(set(labels)) == len(ways)
    return registry, set(labels)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_view_calls_them_so(several: tuple[Registry, set[str]], tmp_path: Path) -> None:
    registry, labels = several
    places: list[Callable[[], list[dict[str, Any]]]] = [
        lambda: list(registry.adapters.show("own@1")["fused"]),
        lambda: list(registry.cache.contents()["entries"]),
        lambda: [model for model in registry.fused.explain("own@1")["models"] if model["recorded"]],
        lambda: list(registry.provenance.impact("base:few").fused),
        lambda: list(registry.provenance.report("own")["tasks"][0]["fused"]),
    ]
    for place in places:
        rows = place()
        assert {row["label"] for row in rows} == labels
        assert len({(row["combined"], row["format"]) for row in rows}) == len(labels)
    graph = registry.provenance.lineage("own@1", up=False)
    assert {node.name for node in graph.nodes if node.kind == "fused"} == labels
    for form in ("tree", "mermaid", "dot", "prov", "openlineage", "svg"):
        text = graphs.written(graph, form)
        if form != "openlineage":  # its names are made of keys
            assert all(name in text for name in labels), form
    for row in registry.adapters.show("own@1")["fused"]:
        (match,) = registry.provenance.identify(registry.workspace.cache.entry(row["key"])).to_dict()[
            "matches"
        ]
        assert match["label"] == row["label"]
        assert match["sentence"] == f"{row['combined']} fused onto few ({row['format']})"
    bundle = registry.bundles.materialize(
        "own@1", tmp_path / "out", request=FuseRequest(quantize=4, group_size=32, accept_loss=True)
    )
    assert bundle.to_dict()["label"] in labels
    assert "4 bits, affine, groups of 32" in (tmp_path / "out" / "README.md").read_text()
