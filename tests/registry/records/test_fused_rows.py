"""What fused artifacts are called: no two of one adapter alike, in any view."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models

from fusery.cli import graphs
from fusery.registry import Registry, tables
from fusery.registry.engine.recipe import ENGINE, Recipe, artifact_key
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.records.fused_rows import answers_in, combined, describe, names
from fusery.storage.digest import digest_json

ADAPTERS = {f"{number:02x}" * 32: f"task{number}_v1_20260101" for number in range(4)}
SHAPES: tuple[dict[str, Any] | None, ...] = (None, {"bits": 3}, {"group_size": 32}, {"mode": "mxfp4"})


def called(recipe: Recipe) -> str:
    extras = [(ADAPTERS[digest], weight) for digest, weight in recipe.extras]
    return names("own_v1_20260101", recipe, extras).label


def test_recipes_that_differ_in_little_are_called_otherwise() -> None:
    quantised = {"bits": 4, "group_size": 64, "mode": "affine"}
    first, second = list(ADAPTERS)[:2]
    recipes = [
        *(Recipe("keep", scale=scale) for scale in (None, 0.0, 0.3, 0.1 + 0.2, 1.0, 1.0000000000000002)),
        *(Recipe("keep", engine=f"{ENGINE}; mlx-lm 0.28.{patch}") for patch in (1, 2)),
        *(Recipe("keep", extras=extras) for extras in (((first, 0.5),), ((first, 0.5), (second, 1.0)))),
        Recipe("keep", rounding="once"),
        *(Recipe("dither", seed=seed) for seed in (0, 1)),
        *(Recipe("dither", seed=0, calibration=digest_json(n), fitted=n == 1) for n in (0, 1)),
        *(Recipe("mixed", bits=bits) for bits in ({"": 6}, {"": 8}, {"": 6, "a.b": 8}, {"a.b": 8})),
        *(Recipe("dequantize", quantization=each and {**quantised, **each}) for each in SHAPES),
    ]
    keys = {artifact_key("a" * 64, "b" * 64, recipe) for recipe in recipes}
    assert len({called(recipe) for recipe in recipes}) == len(keys) == len(recipes)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe("keep"), "keep"),
        (
            Recipe("dequantize", quantization={"bits": 4, "group_size": 64, "mode": "affine"}),
            "requantised to 4 bits, affine, groups of 64",
        ),
        (Recipe("dither", seed=3, calibration="1a2b3c4d" * 8), "dither, seed 3, calibration 1a2b3c4d"),
        (Recipe("mixed", bits={"": 6}), "mixed, 6 bits where adapted"),
        (Recipe("keep", engine=f"{ENGINE}; mlx-lm 0.28.1, mlx 0.30.0"), "keep, by mlx-lm 0.28.1, mlx 0.30.0"),
    ],
    ids=str,
)
def test_in_words(recipe: Recipe, words: str) -> None:
    assert describe(recipe) == words


def test_the_sum() -> None:
    assert combined("a", 10.0, [("b", 0.5), ("c", -1.0)]) == "a (scale 10) + 0.5 x b + -1 x c"
    assert names("a", Recipe("keep", scale=0.1), [])["label"] == "a (scale 0.1) (keep)"


def test_the_last_answers_of_an_adapter() -> None:
    right = {"verdict": "PASS", "prompts": 2, "gained": 1.0, "lost": 0.5, "agreement": 1.0, "general_kl": 0.0}

    def asked(adapter: str, **changes: object) -> tables.EventRow:
        return tables.EventRow(detail=json.dumps({"adapter": adapter, "answers": {**right, **changes}}))

    entries = [asked("a_v1_20260101"), asked("b_v1_20260101", prompts=0, agreement=0.0)]
    for name, prompts in ((None, 0), ("a", 2), ("b", 0), ("c", None)):
        adapter: Any = name and SimpleNamespace(name=f"{name}_v1_20260101")
        answers = answers_in(entries, adapter)
        assert (answers and answers.prompts) == prompts, name
    for wrong in ({"prompts": -1}, {"agreement": -0.5}, {"agreement": 1.5}, {"agreement": "x"}):
        assert answers_in([*entries, asked("a_v1_20260101", **wrong)]) is None
    assert answers_in([*entries, tables.EventRow(detail="{")]) is answers_in([]) is None


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
    ]
    for place in places:
        rows = place()
        assert {row["label"] for row in rows} == labels
        assert len({(row["combined"], row["format"]) for row in rows}) == len(labels)
    graph = registry.provenance.lineage("own@1", up=False)
    assert {node.name for node in graph.nodes if node.kind == "fused"} == labels
    for form in ("tree", "mermaid", "dot", "svg"):
        text = graphs.written(graph, form)
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
