"""Yanking an adapter, and taking that back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest

KEEP = FuseRequest(precision="keep", accept_loss=True)


def test_a_yank_needs_a_reason_and_counts_once(stocked: Registry) -> None:
    with pytest.raises(BadInputError):
        stocked.adapters.yank("course_rec@1", reason=" ")
    with pytest.raises(UnknownReferenceError):
        stocked.adapters.yank("course_rec@9", reason="x")
    stocked.adapters.yank("course_rec@1", reason="wrong licence")
    again = stocked.adapters.yank("course_rec@1", reason="another reason")
    assert (again["changed"], again["reason"]) == (False, "wrong licence")
    assert stocked.adapters.show("course_rec@1")["yanked"]
    with pytest.raises(BadInputError):
        stocked.adapters.unyank("course_rec@1", reason="x" * 100_000)
    assert stocked.adapters.unyank("course_rec@1", reason="cleared")["changed"]
    assert not stocked.adapters.unyank("course_rec@1")["changed"]
    assert not stocked.adapters.show("course_rec@1")["yanked"]
    told = [(event["action"], event["detail"].get("reason")) for event in stocked.upkeep.log()[-2:]]
    assert told == [("adapter.yanked", "wrong licence"), ("adapter.unyanked", "cleared")]


def test_all_that_match_are_yanked_or_none(stocked: Registry, make_adapter: Any) -> None:
    stocked.adapters.register(make_adapter("other", seed=5), base="tiny", task="other", parent="course_rec@2")
    both, reason = "dataset=courses", "the data were withdrawn"

    def yanked() -> list[str]:
        return [row.task for row in stocked.adapters.list(where="yanked", sort="version")]

    planned = stocked.adapters.yank_all([], where=both, dry_run=True)
    assert [(row.yanked, row.changed, row.dry_run) for row in planned] == [(False, True, True)] * 2
    other = stocked.adapters.show("other@1").name
    assert [row.continued for row in planned] == [("course_rec_v2_20260201", other), (other,)]
    assert yanked() == []
    for references, where in (
        (["course_rec@1", "course_rec@9"], None),
        (["course_rec@1"], both),
        ([], None),
        ([], "dataset=nothing"),
        ([], "datasets=courses"),
    ):
        with pytest.raises((BadInputError, UnknownReferenceError)):
            stocked.adapters.yank_all(references, where=where, reason=reason)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadInputError):
        patch.setattr("fusery.registry.catalog.yanks.MOST", 1)
        stocked.adapters.yank_all([], where=both, reason=reason)
    assert yanked() == []
    stocked.adapters.yank("course_rec@1", reason="leaked")
    done = stocked.adapters.yank_all([], where=both, reason=reason)
    assert [(row.yanked, row.changed, row.reason) for row in done] == [
        (True, False, "leaked"),
        (True, True, reason),
    ]
    assert yanked() == ["course_rec"] * 2
    assert len(stocked.adapters.unyank_all([], where="yanked")) == 2
    assert yanked() == []


def test_nothing_of_it_leaves_any_more(stocked: Registry, make_adapter: Any, tmp_path: Path) -> None:
    """Refused alone, as part of a sum, in a bundle of several adapters and in bulk."""
    stocked.adapters.register(make_adapter("other", seed=5), base="tiny", task="other", date="20260301")
    stocked.fused.fuse("course_rec@1")
    stocked.adapters.yank("course_rec@1", reason="wrong licence")
    summed = FuseRequest(precision="keep", accept_loss=True, extras=(("course_rec@1", 0.5),))
    ways: list[Callable[[], object]] = [
        lambda: stocked.fused.fuse("course_rec@1"),
        lambda: stocked.fused.fuse("other@1", summed),
        lambda: stocked.bundles.materialize("other@1", tmp_path / "sum", request=summed),
        lambda: stocked.bundles.materialize(
            ["other@1", "course_rec@1"], tmp_path / "both", target="adapters"
        ),
        lambda: stocked.bundles.materialize("course_rec@1", tmp_path / "own.tar.gz", target="archive"),
        lambda: stocked.exchange.export("course_rec@1", tmp_path / "exported"),
        lambda: stocked.aliases.set("prod", "course_rec@1"),
        lambda: stocked.evaluations.bench("course_rec@1"),
    ]
    for way in ways:
        with pytest.raises(BadInputError, match="wrong licence"):
            way()
    done = stocked.bundles.materialize_all(str(tmp_path / "all" / "{name}"), KEEP, jobs=1)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "course_rec_v2_20260201",
        "other_v1_20260301",
    ]
    assert done.ok and len(done.documents) == 2
    assert not [name for name in ("sum", "both", "own.tar.gz", "exported") if (tmp_path / name).exists()]
    assert stocked.upkeep.audit().ok


def test_what_exists_is_marked(stocked: Registry, make_adapter: Any, tmp_path: Path) -> None:
    stocked.adapters.register(make_adapter("other", seed=5), base="tiny", task="other", date="20260301")
    summed = FuseRequest(precision="keep", accept_loss=True, extras=(("course_rec@1", 0.5),))
    sum_bundle = stocked.bundles.materialize("other@1", tmp_path / "sum", request=summed)
    stocked.aliases.set("prod", "course_rec@1")
    stocked.deployments.record(str(tmp_path / "sum"), "eu/ranker")
    stocked.deployments.record("course_rec@1", "lab")
    [key] = [row["key"] for row in stocked.adapters.show("other@1")["fused"]]
    found = stocked.adapters.yank("course_rec@1", reason="bad data")
    assert (found["name"], found["changed"]) == ("course_rec_v1_20260115", True)
    assert (found["aliases"], found["fused"]) == (["course_rec#prod"], [key])
    assert [row["digest"] for row in found["bundles"]] == [sum_bundle.manifest.digest]
    assert [row["place"] for row in found["deployments"]] == ["eu/ranker", "lab"]
    shown = stocked.adapters.show("other@1")
    assert shown["yanked_reason"] is None and not shown["yanked"]
    words = "contains the weights of course_rec_v1_20260115, which is yanked: bad data"
    assert [_told(row) for row in (*shown["fused"], *shown["bundles"])] == [[words], [words]]
    assert [(row["yanked"], _told(row)) for row in stocked.deployments.list()] == [
        (None, [words]),
        ("bad data", ["yanked: bad data"]),
    ]
    assert [_told(row) for row in stocked.cache.contents()["entries"]] == [[words]]
    stocked.adapters.unyank("course_rec@1")
    assert [_told(row) for row in stocked.cache.contents()["entries"]] == [[]]


def _told(row: Mapping[str, Any]) -> list[str]:
    return [each["summary"] for each in row["withdrawals"]]
