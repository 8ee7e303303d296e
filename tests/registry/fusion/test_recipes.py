"""Recipes that are taken as they are: by a key, from a file, and what is no recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.engine.recipe import OWN, Recipe
from fusery.registry.errors import BadInputError, FuseryError, FusionUnsupportedError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.recipes import find_recipe

FULL = Recipe(
    "mixed",
    engine="canonical-1",
    scale=2.5,
    bits={"a.b": 5, "": 6},
    calibration="c" * 64,
    rounding="once",
    extras=(("e" * 64, -0.5),),
)


@pytest.fixture
def database_url() -> str:
    """What a file says has nothing to do with the database: once is enough."""
    return ""


@pytest.mark.parametrize(
    "recipe",
    [
        FULL,
        Recipe("mixed", bits={"a.b": OWN, "a.c": 5}),
        Recipe("keep"),
        Recipe("dither", seed=7),
        Recipe("dither", calibration="c" * 64, fitted=True),
    ],
    ids=lambda one: f"{one.precision}{' fitted' * one.fitted}{' own' * (OWN in one.bits.values())}",
)
@pytest.mark.parametrize("within", ["alone", "record", "bundle"])
def test_a_file_gives_back_what_was_written(
    registry: Registry, tmp_path: Path, recipe: Recipe, within: str
) -> None:
    form: dict[str, Any] = recipe.to_dict()
    document = {"alone": form, "record": {"recipe": form}, "bundle": {"provenance": {"recipe": form}}}[within]
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    found = find_recipe(registry.workspace, str(tmp_path / "recipe.json"))
    assert found == recipe
    assert found.to_dict() == form


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "auto"},
        {"precision": 7},
        {"seed": -1},
        {"seed": True},
        {"scale": "2"},
        {"scale": 10**400},
        {"bits": {"": -1}},
        {"bits": [5]},
        {"quantization": {"bits": 4}},
        {"calibration": "x"},
        {"rounding": "twice"},
        {"with": [{"adapter": "one@1", "weight": 1.0}]},
        {"strange": 1},
        {"engine": None},
    ],
    ids=str,
)
def test_what_is_no_recipe_is_refused(registry: Registry, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**Recipe("keep").to_dict(), **change}))
    with pytest.raises(FuseryError) as caught:
        find_recipe(registry.workspace, str(path))
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("content", ["{}", '{"recipe": 1}', '{"provenance": []}'])
def test_a_file_without_a_recipe_is_said(registry: Registry, tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(BadInputError, match=r"other\.json holds no recipe"):
        find_recipe(registry.workspace, str(path))


@pytest.mark.parametrize("said", ["nowhere.json", "abcdef01", "abc", "f" * 64, "", "\0"])
def test_a_recipe_that_is_nowhere(registry: Registry, said: str) -> None:
    with pytest.raises(UnknownReferenceError):
        find_recipe(registry.workspace, said)


def test_by_its_key_the_same_is_made_again(stocked: Registry) -> None:
    made = stocked.fused.fuse("course_rec@1", FuseRequest(scale=3.0))
    stocked.workspace.cache.evict(0, ()).execute()
    again = stocked.fused.fuse("course_rec@1", FuseRequest(recipe=made["key"][:12]))
    assert (again["key"], again.source) == (made["key"], "computed")
    assert stocked.fused.fuse("course_rec@1", FuseRequest(recipe=made["key"])).cached


def test_of_another_adapter_it_is_another_model(stocked: Registry) -> None:
    made = stocked.fused.fuse("course_rec@1", FuseRequest(scale=3.0))
    other = stocked.fused.fuse("course_rec@2", FuseRequest(recipe=made["key"]))
    assert other["recipe"] == made["recipe"]
    assert other["key"] != made["key"]


def test_nothing_is_said_besides(stocked: Registry) -> None:
    with pytest.raises(BadInputError, match="nothing can be said besides"):
        stocked.fused.fuse("course_rec@1", FuseRequest(recipe="f" * 64, scale=2.0))


def test_what_cannot_be_made_here_is_said(stocked: Registry, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    for recipe, kind, words in (
        (Recipe("keep", engine="canonical-9"), FusionUnsupportedError, "is made by canonical-9, and here is"),
        (Recipe("dither", seed=1), BadInputError, "dither is for quantised bases"),
        (Recipe("keep", extras=(("e" * 64, 1.0),)), UnknownReferenceError, "adds the adapter eeeeeeeeeeee"),
    ):
        path.write_text(json.dumps(recipe.to_dict()))
        with pytest.raises(kind, match=words):
            stocked.fused.fuse("course_rec@1", FuseRequest(recipe=str(path)))
