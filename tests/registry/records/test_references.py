"""References to things of any kind: by name, digest, place, and with the kind before a colon."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.names import MAX_DECLARED_VERSION
from fusery.registry.records.references import (
    find_things,
    latest_version,
    places_of,
    require_version,
    resolve_adapter,
    resolve_any,
    shippable,
)
from fusery.registry.records.withdrawals import recipe_in, recorded_sources

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_places_of_a_reference() -> None:
    assert places_of("oci://team/x:v1") == ["oci://team/x:v1"]
    assert places_of("a\0b") == ["a\0b"]
    assert places_of("bundle:/tmp/../x") == ["/tmp/../x", "/x"]
    assert places_of("other:/x")[0] == "other:/x"
    assert places_of("~nobody-here/x")[0] == "~nobody-here/x"


@SQLITE
def test_what_a_reference_finds(stocked: Registry, tmp_path: Path) -> None:
    made = stocked.bundles.materialize("course_rec@1", tmp_path / "out")
    digest, base = str(made.manifest.digest), str(stocked.bases.show("tiny").digest)
    with stocked.workspace.database.read() as session:

        def kind_of(text: str) -> type[object]:
            [found] = find_things(session, text)
            return type(found)

        for text in ("course_rec@1", "adapter:course_rec@1", "adapter: course_rec@1 "):
            assert kind_of(text) is tables.AdapterRow
        for text in ("tiny", "base:tiny", base[:8], base):
            assert kind_of(text) is tables.BaseModelRow
        for text in (made.path, f"bundle:{made.path}", digest[:8], digest.upper(), f"bundle:{digest}"):
            assert kind_of(text) is tables.BundleRow
        assert kind_of("dataset:courses") is tables.DatasetRow
        for wrong in ("dataset:none", "bundle:none", "base:course_rec@1", "adapter:tiny", digest[:7], "base:",
                      "dataset:" + digest, "bundle:" + base, digest + "0", "x" * 8):  # fmt: skip
            with pytest.raises(UnknownReferenceError):
                find_things(session, wrong)
        for text in ("course_rec@1", digest):
            assert shippable(find_things(session, text), text)
        for text in ("tiny", "dataset:courses"):
            with pytest.raises(BadInputError):
                shippable(find_things(session, text), text)


@SQLITE
def test_references_to_any_record(stocked: Registry) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    with stocked.workspace.database.read() as session:
        for text in (fused.key, fused.key[:8], fused.digest, fused.digest[:8].upper()):
            assert isinstance(resolve_any(session, text), tables.FusedRow)
        for wrong in (fused.key[:7], fused.digest[:7], fused.key + "0"):
            with pytest.raises(UnknownReferenceError):
                resolve_any(session, wrong)
        with pytest.raises(UnknownReferenceError) as refused:
            resolve_adapter(session, fused.key[:8])
        assert refused.value.hint == f"give {fused.adapter}, or: fusery show {fused.key[:8]} --fidelity"
    with stocked.workspace.database.write() as session:
        own = session.scalars(select(tables.FusedRow)).one()
        values = {column.key: getattr(own, column.key) for column in tables.FusedRow.__table__.columns}
        for number in "01":
            session.add(tables.FusedRow(**values | {"id": None, "key": number * 64, "origin": number}))
        session.flush()
        assert resolve_any(session, fused.digest) is own
        own.origin = "2"
        session.flush()
        assert resolve_any(session, fused.digest) is own


@SQLITE
def test_what_else_may_be_meant(stocked: Registry) -> None:
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    with stocked.workspace.database.read() as session:
        for text, hint in {
            "course_rec#prd": "did you mean course_rec#prod?", "course_rec#xyz": "there are: course_rec#prod",
            "cours_rec#prod": "did you mean course_rec#prod?", "other#xyz": "fusery alias list",
            "course_rec@prod": "did you mean course_rec#prod?", "course_rec@9": "there are: course_rec@1, course_rec@2",
            "prod": "did you mean course_rec#prod?", "cours_rec@latest": "did you mean course_rec@latest?", "xyz": "write a name",
        }.items():  # fmt: skip
            with pytest.raises(UnknownReferenceError) as refused:
                resolve_adapter(session, text)
            assert str(refused.value.hint).startswith(hint), (text, refused.value.hint)
        for text, version in (("course_rec@latest", 2), ("course_rec#prod", 1), (" Course_rec@2 ", 2)):
            assert resolve_adapter(session, text).version == version
        for version in (MAX_DECLARED_VERSION, MAX_DECLARED_VERSION + 1):
            with nullcontext() if version == MAX_DECLARED_VERSION else pytest.raises(BadInputError):
                require_version(session, "course_rec", version)
                require_version(session, "other", version)


@SQLITE
def test_latest_at_a_moment_skips_computed_adapters_without_a_loss(stocked: Registry) -> None:
    stocked.adapters.combine(["course_rec@1", "course_rec@2"])
    before = stocked.adapters.show("course_rec@3").created_at
    with stocked.workspace.database.read() as session:
        adapter = resolve_adapter(session, "course_rec@3")
        recipe = recipe_in(adapter.training)
        assert recipe is not None
        without = replace(recipe, sources=("f" * 64, recipe.sources[1]))
        found = [recorded_sources(session, each, adapter.base_id) for each in (recipe, without)]
        assert [[(row.position, row.source_id) for row in rows] for rows in found] == [
            [(0, 1), (1, 2)],
            [(1, 2)],
        ]
        assert recorded_sources(session, recipe, adapter.base_id + 1) == []
    stocked.adapters.amend("course_rec@3", val_loss=0.1, reason="measured")
    with stocked.workspace.database.read() as session:
        task, since = tables.TaskRow, stocked.adapters.show("course_rec@3").amendments[0].since
        moments = {None: 3, before: 2, since: 3, before - timedelta(days=1): None}
        for at, version in moments.items():
            query = select(latest_version(at)).select_from(task).where(task.name == "course_rec")
            assert session.scalar(query) == version, at


KNOWN = {
    "method": "linear", "sources": ["a" * 64, "b" * 64], "weights": [1, 0.5], "density": None, "seed": None, "rank": 4,
    "fusery": "1.0",
}  # fmt: skip


def test_a_recipe_of_another_form_is_none() -> None:
    for change in ({}, {"density": 0.5, "seed": 0}, {"seed": 3, "sources": ["a" * 64] * 2}):
        recipe = recipe_in({"fusery_recipe": KNOWN | change})
        assert recipe is not None and (recipe.weights, recipe.rank) == ((1.0, 0.5), 4)
    assert recipe_in({"fusery_recipe": [KNOWN]}) is None
    changes: dict[str, list[Any]] = {
        "method": [1], "sources": [[], ["x"] * 2, ["a" * 64], "a" * 64, [1, 2]], "fusery": [None], "more": [1],
        "weights": [[1.0, "a"], [float("inf"), 1.0], [True, 1.0]], "rank": [-1, True, 1 << 63], "seed": [-1, "1"],
        "density": ["1", True],
    }  # fmt: skip
    for name, values in changes.items():
        for value in values:
            assert recipe_in({"fusery_recipe": {**KNOWN, name: value}}) is None, (name, value)
