"""Adapters on record become a new one: registered with recipe and sources, which travel and are audited; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sqlalchemy import text

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.records.recipe import recipe_in

BOTH = ["course_rec@1", "third@1"]


@pytest.fixture
def filled(stocked: Registry, tiny_base: Path, tmp_path: Path) -> Registry:
    """Beside the two versions of `course_rec`, of ranks 8 and 4, another task's adapter of rank 8."""
    third = tiny_models.make_adapter(tmp_path / "third", tiny_base, seed=3)
    stocked.adapters.register(third, base="tiny", task="third")
    return stocked


def update(registry: Registry, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the updates of an adapter as whole matrices."""
    folder = registry.adapters.folder(name)
    scale = json.loads((folder / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    tensors = {
        key: np.frombuffer(data, np.float32).reshape(shape).astype(np.float64)
        for key, (_, shape, data) in tiny_models.read_tensors(folder / "adapters.safetensors").items()
    }
    return {
        key.removesuffix(".lora_a"): scale * value @ tensors[key.replace("lora_a", "lora_b")]
        for key, value in tensors.items()
        if key.endswith("lora_a")
    }


def test_a_combination_is_registered_with_its_recipe(filled: Registry) -> None:
    done = filled.adapters.combine(
        BOTH, method="cat", weights=[0.5, -2], task="both", tags={"a": "b"}, note="n"
    )
    assert done.adapter is not None
    assert done.adapter.created
    assert (done.name, done.retained, done.relative_error) == (done.adapter.name, 1.0, 0.0)
    shown = filled.adapters.show("both@1")
    assert shown.computed_from == ("course_rec_v1_20260115", done.sources[1])
    assert shown.recipe == done.recipe
    assert (shown.rank, shown.scale, shown.parent, shown.note, dict(shown.tags)) == (
        16,
        1.0,
        None,
        "n",
        {"a": "b"},
    )
    assert done.recipe.sources == tuple(filled.adapters.show(name).digest for name in BOTH)
    assert (done.recipe.weights, done.recipe.density, done.recipe.seed) == ((0.5, -2.0), None, None)
    assert not shown.findings
    new, first, second = (update(filled, name) for name in ("both@1", *BOTH))
    assert new.keys() == first.keys() | second.keys()
    for module, found in new.items():
        expected = 0.5 * first.get(module, 0.0) - 2 * second.get(module, 0.0)
        assert np.abs(found - expected).max() < 1e-6
    assert filled.upkeep.audit().ok


def test_a_card_says_what_it_was_computed_from(filled: Registry, tmp_path: Path) -> None:
    filled.adapters.amend(BOTH[0], tags={"licence": "mit"}, reason="asked for")
    done = filled.adapters.combine(BOTH, method="ties", density=0.5, weights=[0.5, -2], task="both")
    first, second = (filled.adapters.show(name) for name in BOTH)
    told = {
        "computed by": "ties, density 0.5",
        "computed from": f"0.5 x {first.name} ({first.digest[:12]})",
    }
    exported = filled.exchange.export("both@1", tmp_path / "exported").path
    bundle = tmp_path / "hub"
    filled.bundles.materialize("both@1", bundle, target="hub", content="adapters")
    for folder, prefix in ((Path(exported), ""), (bundle, "adapter, ")):
        card = (folder / "README.md").read_text()
        for label, value in told.items():
            assert f"| {prefix}{label} | {value} |" in card
        assert f"-2 x {second.name}" in card
    assert f"licence of the adapter {first.name} | mit" in card
    assert f"licence of the adapter {second.name} | not recorded" in card
    (facts,) = json.loads((bundle / "fusery.json").read_text())["adapters"]
    computed = facts["facts"]["computed"]
    assert [part["digest"] for part in computed["from"]] == list(done.recipe.sources)
    assert [part["weight"] for part in computed["from"]] == [0.5, -2]


def test_the_same_again_is_the_adapter_that_is_there(filled: Registry) -> None:
    asked: dict[str, Any] = {"method": "dare", "density": 0.5, "weights": [0.6, 0.4], "task": "both"}
    first = filled.adapters.combine(BOTH, **asked, seed=4)
    again = filled.adapters.combine(BOTH, **asked, seed=4)
    assert first.adapter is not None
    assert again.adapter is not None
    assert (first.adapter.created, again.adapter.created) == (True, False)
    assert again.adapter.digest == first.adapter.digest
    other = filled.adapters.combine(BOTH, **asked, seed=5)
    assert other.adapter is not None
    assert other.adapter.digest != first.adapter.digest


def test_a_shrunk_adapter_keeps_what_was_said_before(filled: Registry) -> None:
    before = filled.adapters.shrink("course_rec@1", rank=3, dry_run=True)
    assert (before.name, before.adapter, before.dry_run) == (None, None, True)
    assert len(filled.adapters.list(task="course_rec")) == 2
    done = filled.adapters.shrink("course_rec@1", rank=3)
    assert done.name is not None
    assert done.name.startswith("course_rec_v3_")
    kept = {field: done[field] for field in ("retained", "relative_error", "least_module", "least_retained")}
    assert kept == {field: before[field] for field in kept}
    whole, new = update(filled, "course_rec@1"), update(filled, "course_rec@3")
    squares = [np.square(np.linalg.svd(matrix, compute_uv=False)) for matrix in whole.values()]
    share = sum(each[:3].sum() for each in squares) / sum(each.sum() for each in squares)
    assert done.retained == pytest.approx(share, rel=1e-6)
    error = sum(np.square(whole[name] - new[name]).sum() for name in whole) / sum(
        each.sum() for each in squares
    )
    assert done.relative_error == pytest.approx(error**0.5, rel=1e-4)
    assert done.recipe.method == "shrink"
    whole_again = filled.adapters.shrink("course_rec@1", rank=8, task="whole")
    assert whole_again.retained == 1.0


def test_lineage_impact_and_yank_know_what_was_computed(filled: Registry) -> None:
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
    reached = filled.provenance.impact("adapter:third@1").adapters
    assert set(reached) == {filled.adapters.show("third@1").name, both, small.name}
    gone = filled.adapters.yank("both@1", reason="worse")
    assert (gone.computed, gone.continued) == ((small.name,), ())
    with pytest.raises(BadInputError, match="was yanked"):
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
    # An amended dataset of the sources does not make another adapter.
    filled.adapters.amend("course_rec@1", dataset="lectures", reason="renamed")
    again = filled.adapters.combine(["course_rec@1", "course_rec@2"], task="alike")
    assert (again.name, again.adapter["created"]) == (alike.name, False)
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
    listed = {row["task"]: row["newest"]["name"] for row in filled.provenance.report()["tasks_listed"]}
    assert listed["course_rec"] == before
    then = filled.upkeep.log()[-1]["at"]
    filled.adapters.amend("course_rec@3", val_loss=1.5, reason="measured")
    assert filled.adapters.show("course_rec@latest").name == small.name
    assert filled.adapters.show("course_rec@latest", at=then).name == before


def test_recipe_and_sources_travel(filled: Registry, tmp_path: Path) -> None:
    done = filled.adapters.combine(BOTH, task="both")
    home = tmp_path / "elsewhere"
    with Registry.open(home=home) as other:
        other.init()
    moved = filled.exchange.push("both@1", home)
    assert [item.kind for item in moved.items_] == ["base", "adapter", "adapter", "adapter"]
    with Registry.open(home=home) as other:
        shown = other.adapters.show("both@1")
        assert (shown.computed_from, shown.recipe) == (done.sources, done.recipe)
        assert other.upkeep.audit().ok
        # There, too, the same again is what is there.
        again = other.adapters.combine(list(done.sources), task="both")
        assert again.adapter is not None
        assert not again.adapter.created
    saved, back = tmp_path / "saved", tmp_path / "restored"
    filled.upkeep.backup(saved)
    with Registry.open(home=back) as restored:
        restored.upkeep.restore(saved)
        assert restored.adapters.show("both@1").computed_from == done.sources
        assert restored.upkeep.audit().ok


def test_a_folder_that_is_registered_again_finds_its_sources(filled: Registry, tmp_path: Path) -> None:
    done = filled.adapters.combine(BOTH, task="both")
    out = filled.exchange.export("both@1", tmp_path / "out").path
    again = filled.adapters.register(out, base="tiny", task="copied")
    assert filled.adapters.show(again).computed_from == done.sources


def test_an_audit_finds_sources_that_the_recipe_does_not_name(filled: Registry) -> None:
    filled.adapters.combine(BOTH, task="both")
    with filled.workspace.database.write() as session:
        changed = session.execute(text("UPDATE adapter_source SET source_id = 2 WHERE position = 0"))
    assert changed.rowcount == 1  # type: ignore[attr-defined]
    codes = {problem.code for problem in filled.upkeep.audit().problems}
    assert {"record_changed", "sources_differ"} <= codes


def dora(registry: Registry, base: Path, folder: Path) -> list[str]:
    made = tiny_models.make_adapter(folder / "dora", base, fine_tune_type="dora")
    registry.adapters.register(made, base="tiny", task="dora")
    return ["course_rec@1", "dora@1"]


def elsewhere(registry: Registry, base: Path, folder: Path) -> list[str]:
    other = tiny_models.make_base(folder / "other", seed=9)
    registry.bases.add(other, name="other")
    registry.adapters.register(
        tiny_models.make_adapter(folder / "on", other, seed=5), base="other", task="on"
    )
    return ["course_rec@1", "on@1"]


def withdrawn(registry: Registry, base: Path, folder: Path) -> list[str]:
    registry.adapters.yank("third@1", reason="wrong data")
    return BOTH


REFUSED: dict[str, tuple[Callable[..., list[str]] | list[str], dict[str, Any], str, str]] = {
    "dora": (dora, {}, "is a DoRA", "fusery fuse"),
    "another base": (elsewhere, {}, "is on tiny and", "fusery list"),
    "yanked": (withdrawn, {}, "was yanked", ""),
    "no task": (BOTH, {"task": None}, "not said what the new adapter is for", "--task"),
    "no method": (BOTH, {"method": "mean"}, "no method 'mean'", "svd|cat"),
    "one alone": (["course_rec@1"], {}, "alone", "shrink"),
    "too many": (["course_rec@1"] * 65, {}, "65 adapters", "64"),
    "weights": (BOTH, {"weights": [1.0]}, "1 weight for 2 adapters", "--weights 1,1"),
    "no number": (BOTH, {"weights": [1.0, float("nan")]}, "nan is no weight", "0.5"),
    "no number at all": (BOTH, {"weights": ["a", 1]}, "a is no weight", "0.5"),
    "a number for nobody": (BOTH, {"weights": [10**400, 1]}, "is no weight", "a million"),
    "next to nothing": (BOTH, {"weights": [1e-320, 1]}, "1e-320 is no weight", "a millionth"),
    "nothing": (BOTH, {"weights": [0, 0]}, "leave nothing of the adapters", "--weights"),
    "nothing left": (
        ["third@1", "third@1"],
        {"weights": [1, -1]},
        "leave nothing of the adapters",
        "--weights",
    ),
    "hardly any": (BOTH, {"method": "dare", "density": 1e-320}, "is no density", "0.5"),
    "half a rank": (BOTH, {"rank": 1.5}, "invalid rank: 1.5", "--rank"),
    "no whole rank": (BOTH, {"rank": True}, "invalid rank: True", "--rank"),
    "half a seed": (BOTH, {"method": "dare", "density": 0.5, "seed": 1.5}, "1.5 is no seed", "--seed"),
    "no density": (BOTH, {"method": "ties"}, "not said which", "--density"),
    "density of nothing": (BOTH, {"method": "ties", "density": 0.0}, "0.0 is no density", "--density"),
    "density of all": (BOTH, {"density": 0.5}, "svd keeps every number", "ties"),
    "seed": (BOTH, {"seed": 1}, "no chance", "dare"),
    "other seed": (BOTH, {"method": "dare", "density": 0.5, "seed": -1}, "-1 is no seed", "--seed"),
    "rank": (BOTH, {"method": "cat", "rank": 3}, "follows from the adapters", "svd"),
    "no rank": (BOTH, {"rank": 0}, "invalid rank: 0", "--rank"),
    "large rank": (BOTH, {"rank": 17}, "has rank 16 at most", "--rank 16"),
    "ranks": (["course_rec@1", "course_rec@2"], {"method": "linear"}, "of one rank", "svd"),
    "tag": (BOTH, {"tags": {"": "x"}}, "tag", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    filled: Registry, tiny_base: Path, tmp_path: Path, case: str
) -> None:
    given, asked, message, hint = REFUSED[case]
    names = given if isinstance(given, list) else given(filled, tiny_base, tmp_path)
    before = len(filled.adapters.list())
    with pytest.raises(BadInputError) as caught:
        filled.adapters.combine(names, **{"task": "both", **asked})
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert len(filled.adapters.list()) == before
    with pytest.raises(UnknownReferenceError):
        filled.adapters.combine(["course_rec@1", "nothing@1"], task="both")


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_is_none_to_shrink_to_is_refused(filled: Registry, rank: int) -> None:
    own = filled.adapters.show("course_rec@1").rank
    with pytest.raises(BadInputError, match=r"invalid rank|not shrunk") as caught:
        filled.adapters.shrink("course_rec@1", rank=rank)
    assert caught.value.hint == f"--rank {own // 2}"


@pytest.mark.parametrize(
    "change",
    [
        {"sources": []},
        {"sources": ["x"]},
        {"weights": [1.0, "a"]},
        {"weights": [float("inf"), 1.0]},
        {"rank": -1},
        {"rank": True},
        {"method": 3},
        {"seed": 0.5},
        {"density": "half"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_recipe_is_taken_for_none(filled: Registry, change: dict[str, Any]) -> None:
    found = dict(filled.adapters.combine(BOTH, task="both", dry_run=True).recipe.to_dict())
    assert recipe_in({"fusery_recipe": found}) is not None
    assert recipe_in({"fusery_recipe": {**found, **change}}) is None
    assert recipe_in({"fusery_recipe": [found]}) is None
