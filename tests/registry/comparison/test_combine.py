"""Adapters on record become a new one: registered with recipe and sources, which travel and are audited; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sqlalchemy import text
from tensor_files import numbers

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError

BOTH = ["course_rec@1", "third@1"]


@pytest.fixture
def filled(stocked: Registry, tiny_base: Path, tmp_path: Path) -> Registry:
    third = tiny_models.make_adapter(tmp_path / "third", tiny_base, seed=3)
    stocked.adapters.register(third, base="tiny", task="third")
    return stocked


def update(registry: Registry, name: str) -> dict[str, np.ndarray[Any, Any]]:
    folder = registry.adapters.folder(name)
    scale = json.loads((folder / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    file = folder / "adapters.safetensors"
    paths = {name.rpartition(".")[0] for name in tiny_models.read_tensors(file)}
    return {path: scale * numbers(file, f"{path}.lora_a") @ numbers(file, f"{path}.lora_b") for path in paths}


def test_a_combination_is_registered_with_its_recipe(filled: Registry, tmp_path: Path) -> None:
    done = filled.adapters.combine(
        BOTH, method="cat", weights=[0.5, -2], task="both", tags={"a": "b"}, note="n"
    )
    assert done.adapter is not None
    assert done.adapter.created
    assert (done.name, done.retained, done.relative_error) == (done.adapter.name, 1.0, 0.0)
    shown = filled.adapters.show("both@1")
    assert shown.computed_from == ("course_rec_v1_20260115", done.sources[1])
    assert shown.recipe == done.recipe
    facts = (shown.rank, shown.scale, shown.parent, shown.note, dict(shown.tags))
    assert facts == (16, 1.0, None, "n", {"a": "b"})
    assert done.recipe.sources == tuple(filled.adapters.show(name).digest for name in BOTH)
    assert (done.recipe.weights, done.recipe.density, done.recipe.seed) == ((0.5, -2.0), None, None)
    assert not shown.findings
    new, first, second = (update(filled, name) for name in ("both@1", *BOTH))
    assert new.keys() == first.keys() | second.keys()
    for module, found in new.items():
        expected = 0.5 * first.get(module, 0.0) - 2 * second.get(module, 0.0)
        assert np.abs(found - expected).max() < 1e-6
    assert filled.upkeep.audit().ok
    # A folder that is registered again finds its sources.
    again = filled.adapters.register(
        filled.exchange.export("both@1", tmp_path / "out").path, base="tiny", task="copied"
    )
    assert filled.adapters.show(again).computed_from == done.sources


def test_a_shrunk_adapter_keeps_what_was_said_before(filled: Registry) -> None:
    before = filled.adapters.shrink("course_rec@1", rank=3, dry_run=True)
    assert (before.name, before.adapter, before.dry_run) == (None, None, True)
    assert len(filled.adapters.list(task="course_rec")) == 2
    done = filled.adapters.shrink("course_rec@1", rank=3)
    assert done.name is not None
    assert done.name.startswith("course_rec_v3_")
    kept = {field: done[field] for field in ("retained", "relative_error", "least_module", "least_retained")}
    assert kept == {field: before[field] for field in kept}
    matrices = update(filled, "course_rec@1").values()
    squares = [np.square(np.linalg.svd(matrix, compute_uv=False)) for matrix in matrices]
    share = sum(each[:3].sum() for each in squares) / sum(each.sum() for each in squares)
    assert done.retained == pytest.approx(share, rel=1e-6)
    assert done.recipe.method == "shrink"
    whole_again = filled.adapters.shrink("course_rec@1", rank=8, task="whole")
    assert whole_again.retained == 1.0


@pytest.mark.parametrize("method", ["core", "tsv"])
def test_updates_of_other_ranks_are_merged_in_a_shared_basis(filled: Registry, method: str) -> None:
    """The default rank is the sum of the ranks, and the shares are those of the registered weights."""
    names = ["course_rec@1", "course_rec@2", "third@1"]
    done = filled.adapters.combine(names, method=method, weights=[1, 0.5, 1], task="all")
    assert done.adapter is not None
    assert done.recipe.rank == sum(filled.adapters.show(name).rank for name in names)
    assert done.recipe.density == (None if method == "tsv" else 0.2)
    assert filled.adapters.combine(names, method=method, weights=[1, 0.5, 1], task="all").name == done.name
    new = update(filled, done.adapter.name)
    assert [share.name for share in done.shares] == list(done.sources)
    for share, name in zip(done.shares, names, strict=True):
        own, rank = update(filled, name), filled.adapters.show(name).rank
        whole = sum(np.vdot(new[path], matrix) for path, matrix in own.items())
        assert share.retained == pytest.approx(
            whole / sum(map(np.vdot, own.values(), own.values())), rel=1e-4
        )
        changes = {
            path: np.linalg.norm(np.linalg.svd(matrix)[0][:, :rank].T @ (new[path] - matrix))
            / np.linalg.norm(matrix)
            for path, matrix in own.items()
        }
        assert share.worst_module == max(changes, key=lambda path: changes[path])
        assert share.worst_interference == pytest.approx(changes[share.worst_module], rel=1e-3)
    small = filled.adapters.combine(names, method=method, weights=[1, 0.5, 1], rank=3, dry_run=True)
    assert small.recipe.rank == 3
    assert small.adapter is None


def test_lineage_and_yank_know_what_was_computed(filled: Registry) -> None:
    filled.adapters.combine(BOTH, task="both")
    small = filled.adapters.shrink("both@1", rank=2, task="small")
    up = filled.provenance.lineage("small@1", down=False)
    relations = [
        (edge.source, edge.relation, edge.target) for edge in up.edges if edge.relation == "computed-from"
    ]
    names = {node.id: node.name for node in up.nodes}
    both = filled.adapters.show("both@1").name
    assert {(names[source], names[target]) for source, _, target in relations} == {
        (small.name, both),
        (both, "course_rec_v1_20260115"),
        (both, filled.adapters.show("third@1").name),
    }
    down = filled.provenance.lineage("course_rec@1", up=False)
    assert {both, small.name} <= {node.name for node in down.nodes}
    gone = filled.adapters.yank("both@1", reason="worse")
    assert (gone.computed, gone.continued) == ((small.name,), ())
    with pytest.raises(BadInputError):
        filled.adapters.shrink("both@1", rank=2)


def test_dataset_shared_by_all_sources_is_inherited(filled: Registry) -> None:
    filled.adapters.amend("course_rec@1", dataset="courses", reason="known")
    assert filled.adapters.shrink("course_rec@1", rank=2, task="small").adapter["dataset"] == "courses"
    filled.adapters.amend("course_rec@2", dataset="courses", reason="known")
    alike = filled.adapters.combine(["course_rec@1", "course_rec@2"], task="alike")
    assert alike.adapter["dataset"] == "courses"
    filled.adapters.amend("third@1", dataset="reviews", reason="known")
    mixed = filled.adapters.combine(BOTH, task="mixed")
    smaller = filled.adapters.shrink("mixed@1", rank=2, task="smaller")
    assert (mixed.adapter["dataset"], smaller.adapter["dataset"]) == (None, None)
    for where in ("dataset = reviews", "dataset in (reviews)", 'dataset ~ "rev*"'):
        names = {row.name for row in filled.adapters.list(where=where)}
        assert names == {filled.adapters.show("third@1").name, mixed.name, smaller.name}
    courses = {row.name for row in filled.adapters.list(where="dataset = courses")}
    assert {alike.name, mixed.name, smaller.name} < courses
    assert filled.adapters.list(where="dataset is null") == []
    assert filled.upkeep.audit().ok


def test_latest_skips_computed_adapters_without_a_validation_loss(filled: Registry) -> None:
    before = filled.adapters.show("course_rec@latest").name
    small = filled.adapters.shrink("course_rec@1", rank=3)
    other = filled.adapters.shrink("course_rec@1", rank=2, task="small")
    assert small.name == filled.adapters.show("course_rec@3").name
    assert filled.adapters.show("course_rec@latest").name == before
    assert filled.adapters.show("small@latest").name == other.name  # the task has no other
    newest = {row.task: row.adapter for row in filled.adapters.tasks()}
    assert (newest["course_rec"], newest["small"]) == (before, other.name)
    then = filled.upkeep.log()[-1]["at"]
    filled.adapters.amend("course_rec@3", val_loss=1.5, reason="measured")
    assert filled.adapters.show("course_rec@latest").name == small.name
    assert filled.adapters.show("course_rec@latest", at=then).name == before


def test_recipe_and_sources_travel(filled: Registry, tmp_path: Path) -> None:
    done = filled.adapters.combine(BOTH, task="both")
    home = tmp_path / "elsewhere"
    with Registry.open(home) as other:
        other.init()
    moved = filled.exchange.push("both@1", home)
    assert [item.kind for item in moved.items_] == ["base", "adapter", "adapter", "adapter"]
    with Registry.open(home) as other:
        shown = other.adapters.show("both@1")
        assert (shown.computed_from, shown.recipe) == (done.sources, done.recipe)
        assert other.upkeep.audit().ok
        # There, too, the same again is what is there.
        again = other.adapters.combine(list(done.sources), task="both")
        assert again.adapter is not None
        assert not again.adapter.created


def test_an_audit_finds_sources_that_the_recipe_does_not_name(filled: Registry) -> None:
    filled.adapters.combine(BOTH, task="both")
    with filled.workspace.database.write() as session:
        changed = session.execute(text("UPDATE adapter_source SET source_id = 2 WHERE position = 0"))
    assert changed.rowcount == 1  # type: ignore[attr-defined]
    codes = {problem.code for problem in filled.upkeep.audit().problems}
    assert {"record_changed", "sources_differ"} <= codes


def test_the_same_again_is_the_adapter_that_is_there(filled: Registry) -> None:
    def made(seed: int) -> tuple[str, bool]:
        weights = [0.6, 0.4]
        done = filled.adapters.combine(
            BOTH, method="dare", density=0.5, weights=weights, task="both", seed=seed
        )
        assert done.adapter is not None
        return done.adapter.digest, done.adapter.created

    first = made(4)
    assert (first[1], made(4)) == (True, (first[0], False))
    assert made(5)[0] != first[0]


Words = dict[str, Any]
DARE: Words = {"method": "dare", "density": 0.5}
REFUSED: dict[str, Words] = {
    "no task": {"task": None},
    "no method": {"method": "mean"},
    "fewer weights": {"weights": [1.0]},
    "a weight of NaN": {"weights": [1.0, float("nan")]},
    "weights of nothing": {"weights": [0, 0]},
    "a large rank": {"rank": 17},
    "a rank that follows": {"method": "cat", "rank": 3},
    "a negative seed": {**DARE, "seed": -1},
    "a seed without chance": {"seed": 1},
    "no density": {"method": "ties"},
    "a density of nothing": {"method": "ties", "density": 0.0},
    "a density without a method for it": {"density": 0.5},
    "a density for singular vectors": {"method": "tsv", "density": 0.5},
    "a density of nothing in core space": {"method": "core", "density": 0.0},
    "a large rank of singular vectors": {"method": "tsv", "rank": 17},
    "an empty tag": {"tags": {"": "x"}},
}


def test_weights_elsewhere_are_fetched(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    local = filled.adapters.combine(BOTH, task="both", dry_run=True)
    monkeypatch.setattr(type(filled.workspace.store), "local_path", lambda *_, **__: None)
    assert filled.adapters.combine(BOTH, task="both", dry_run=True) == local
    filled.adapters.register(filled.adapters.folder("course_rec@1", format="peft"), base="tiny", task="peft")
    peft = filled.adapters.combine(["peft@1", BOTH[1]], task="both", dry_run=True)
    assert (peft.modules, peft.retained) == (local.modules, pytest.approx(local.retained, rel=1e-4))


def test_what_makes_no_sense_is_refused(filled: Registry, tiny_base: Path, tmp_path: Path) -> None:
    def refused(names: list[str], **words: Any) -> None:
        with pytest.raises(BadInputError) as caught:
            filled.adapters.combine(names, **{"task": "both", **words})
        assert caught.value.hint or names == BOTH

    for words in REFUSED.values():
        refused(BOTH, **words)
    refused(["course_rec@1"])
    refused(["course_rec@1"] * 65)
    refused(["third@1", "third@1"], weights=[1, -1])  # nothing is left
    refused(["course_rec@1", "course_rec@2"], method="linear")  # of other ranks
    dora = tiny_models.make_adapter(tmp_path / "dora", tiny_base, fine_tune_type="dora")
    filled.adapters.register(dora, base="tiny", task="dora")
    refused(["course_rec@1", "dora@1"])
    other = tiny_models.make_base(tmp_path / "other", seed=9)
    filled.bases.add(other, name="other")
    on_other = tiny_models.make_adapter(tmp_path / "on", other, seed=5)
    filled.adapters.register(on_other, base="other", task="on")
    refused(["course_rec@1", "on@1"])
    with pytest.raises(UnknownReferenceError):
        filled.adapters.combine(["course_rec@1", "nothing@1"], task="both")
    for rank in (0, 9):
        with pytest.raises(BadInputError) as unfit:
            filled.adapters.shrink("course_rec@1", rank=rank)
        assert unfit.value.hint == "--rank 4"
    filled.adapters.yank("third@1", reason="wrong data")
    refused(BOTH)
    assert "both" not in {row.task for row in filled.adapters.list()}
