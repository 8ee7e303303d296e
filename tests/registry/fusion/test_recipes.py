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


def write(folder: Path, document: object) -> str:
    (folder / "recipe.json").write_text(json.dumps(document))
    return str(folder / "recipe.json")


def test_a_file_gives_back_what_was_written(registry: Registry, tmp_path: Path) -> None:
    for recipe in (
        FULL,
        Recipe("mixed", bits={"a.b": OWN, "a.c": 5}),
        Recipe("keep"),
        Recipe("dither", seed=7),
        Recipe("dither", calibration="c" * 64, fitted=True),
    ):
        form: dict[str, Any] = recipe.to_dict()
        for document in (form, {"recipe": form}, {"provenance": {"recipe": form}}):
            found, base = find_recipe(registry.workspace, write(tmp_path, document))
            assert (found, base) == (recipe, None)
            assert found.to_dict() == form


WRONG: tuple[dict[str, Any], ...] = (
    {"precision": "auto"}, {"precision": 7}, {"seed": -1}, {"seed": True}, {"scale": "2"}, {"scale": 10**400}, {"bits": {"": -1}},
    {"bits": [5]}, {"quantization": {"bits": 4}}, {"calibration": "x"}, {"rounding": "twice"}, {"strange": 1}, {"engine": None},
    {"with": [{"adapter": "one@1", "weight": 1.0}]},
)  # fmt: skip


def test_what_is_no_recipe_is_refused(registry: Registry, tmp_path: Path) -> None:
    for change in WRONG:
        with pytest.raises(FuseryError) as caught:
            find_recipe(registry.workspace, write(tmp_path, {**Recipe("keep").to_dict(), **change}))
        assert len(caught.value.message) < 500
    for document in ({}, {"recipe": 1}, {"provenance": []}):
        with pytest.raises(BadInputError, match=r"recipe\.json"):
            find_recipe(registry.workspace, write(tmp_path, document))
    for said in ("nowhere.json", "abcdef01", "abc", "f" * 64, "", "\0"):
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


def test_what_cannot_be_made_here_is_said(stocked: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        stocked.fused.fuse("course_rec@1", FuseRequest(recipe="f" * 64, scale=2.0))
    for recipe, kind in (
        (Recipe("keep", engine="canonical-9"), FusionUnsupportedError),
        (Recipe("dither", seed=1), BadInputError),
        (Recipe("keep", extras=(("e" * 64, 1.0),)), UnknownReferenceError),
    ):
        with pytest.raises(kind):
            stocked.fused.fuse("course_rec@1", FuseRequest(recipe=write(tmp_path, recipe.to_dict())))
