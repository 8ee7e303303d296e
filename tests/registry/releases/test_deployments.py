"""Deployments: what runs where, now and at any moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.releases import deployments

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


def running(registry: Registry, **chosen: object) -> list[tuple[str, str]]:
    return [(row["place"], row["name"]) for row in registry.deployments.list(**chosen)]


def told(registry: Registry) -> list[tuple[str, str, str]]:
    return [
        (event["action"], event["subject"], event["detail"]["name"])
        for event in registry.upkeep.log()
        if event["kind"] == "deployment"
    ]


def test_recorded_replaced_and_ended(stocked: Registry) -> None:
    view = stocked.deployments.record("course_rec@1", " eu/ranker ", note="rollout 7")
    facts = {"place": "eu/ranker", "kind": "adapter", "name": FIRST, "note": "rollout 7"}
    assert {key: view[key] for key in facts} == facts and view["changed"] and view["ended"] == []
    assert not stocked.deployments.record(FIRST, "eu/ranker")["changed"]
    stocked.deployments.record("course_rec@2", "eu/ranker")
    assert running(stocked) == [("eu/ranker", FIRST), ("eu/ranker", SECOND)]
    replaced = stocked.deployments.record("course_rec@2", "eu/ranker", replace=True)
    assert [row["name"] for row in replaced["ended"]] == [FIRST] and replaced["changed"]
    assert running(stocked) == [("eu/ranker", SECOND)]
    assert [row["name"] for row in stocked.deployments.end(["eu/ranker"], reason="sunset")] == [SECOND]
    assert running(stocked) == []
    assert running(stocked, every=True) == [("eu/ranker", FIRST), ("eu/ranker", SECOND)]
    assert stocked.deployments.end(["eu/ranker"]) == []  # a second time changes nothing
    assert told(stocked) == [
        ("deployment.recorded", "eu/ranker", FIRST),
        ("deployment.recorded", "eu/ranker", SECOND),
        ("deployment.ended", "eu/ranker", FIRST),
        ("deployment.ended", "eu/ranker", SECOND),
    ]
    assert stocked.upkeep.log()[-1]["detail"]["reason"] == "sunset"
    assert stocked.upkeep.audit_chain().ok


def test_a_bundle_by_its_place_and_by_its_digest(stocked: Registry, tmp_path: Path) -> None:
    place = str(tmp_path / "out")
    made = stocked.bundles.materialize("course_rec@2", tmp_path / "out")
    by_place = stocked.deployments.record(place, "one")
    by_digest = stocked.deployments.record(made.manifest.digest[:12], "two")
    assert by_place["kind"] == by_digest["kind"] == "bundle"
    assert by_place["digest"] == by_digest["digest"] == made.manifest.digest
    key = stocked.fused.fuse("course_rec@2")["key"]
    assert stocked.deployments.record(key[:12], "three")["kind"] == "fused"
    assert running(stocked, reference=place) == [("one", f"model {place}"), ("two", f"model {place}")]
    assert running(stocked, place="three") == [("three", f"{SECOND} (keep)")]
    everywhere = {"one", "two", "three"}
    assert {row["place"] for row in stocked.adapters.show("course_rec@2")["deployments"]} == everywhere
    stocked.deployments.end(["one"])
    for subject in ("base:tiny", "adapter:course_rec@1"):
        below = stocked.provenance.lineage(subject, up=False).nodes
        assert {node.name: node.over for node in below if node.kind == "deployment"} == {
            place: place == "one" for place in everywhere
        }


def test_invalid_deployments_record_nothing(stocked: Registry) -> None:
    for place in ("", "  ", "a\nb", "x" * 301):
        with pytest.raises(BadInputError):
            stocked.deployments.record("course_rec@1", place)
    for reference in ("tiny", "dataset:courses"):
        with pytest.raises(BadInputError):
            stocked.deployments.record(reference, "here")
    with pytest.raises(UnknownReferenceError):
        stocked.deployments.record("course_rec@9", "here")
    with pytest.raises(UnknownReferenceError):
        stocked.deployments.end(["here"])
    for via in ("x" * 41, "a\nb", "https://u:pw@h/x", "-x", "vllm "):
        with pytest.raises(BadInputError):
            stocked.deployments.record("course_rec@1", "here", via=via)
        with pytest.raises(BadInputError):
            stocked.deployments.refuse("course_rec@1", "here", reason="no", via=via)
        with pytest.raises(BadInputError):
            stocked.deployments.end(["eu/ranker"], via=via)
    assert told(stocked) == []
    stocked.deployments.record("course_rec@1", "here")
    with pytest.raises(UnknownReferenceError):
        stocked.deployments.end(["here", "there"])
    assert running(stocked) == [("here", FIRST)]


def test_one_adapter_has_so_many_and_what_is_refused_is_told(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "DEPLOYMENTS", 1)
    stocked.deployments.record("course_rec@1", "here")
    with pytest.raises(BadInputError):
        stocked.deployments.record("course_rec@1", "there")
    stocked.deployments.refuse("course_rec@2", "here", reason="yanked", via="vllm")
    assert [entry.action for entry in stocked.upkeep.log(limit=1)] == ["deployment.refused"]


def test_no_password_is_kept(stocked: Registry) -> None:
    note = "see https://me:s3cret@wiki/x"
    stocked.deployments.record("course_rec@1", "https://bot:s3cret@host/app", note=note)
    assert "s3cret" not in str(stocked.deployments.list()) + str(stocked.upkeep.log())


def test_a_past_deployment_runs_from_its_begin_to_before_its_end(stocked: Registry) -> None:
    begin, second = datetime(2025, 1, 1, tzinfo=UTC), timedelta(seconds=1)
    with stocked.workspace.database.write() as session:
        for adapter, place, end in ((1, "a", begin + 60 * second), (2, "b", None)):
            about = {"adapter_id": adapter, "place": place, "note": "", "by": "x"}
            session.add(tables.DeploymentRow(**about, at=begin, ended_at=end))
    both, last = [("a", FIRST), ("b", SECOND)], [("b", SECOND)]
    for at, expected in ((-1, []), (0, both), (59, both), (60, last), (10**7, last)):
        assert sorted(running(stocked, at=(begin + at * second).isoformat())) == expected, at


def test_deployments_of_a_program_are_told_apart(stocked: Registry) -> None:
    registry = stocked.deployments
    assert registry.record("course_rec@1", "eu", via="vllm").via == "vllm"
    registry.record("course_rec@1", "us")
    assert running(stocked, via="vllm") == [("eu", FIRST)]
    assert not registry.record("course_rec@1", "eu").changed
    taken = registry.record("course_rec@1", "eu", via="k8s")
    assert taken.changed and [row.via for row in taken.ended] == ["vllm"]
    assert stocked.upkeep.log()[-2].detail["reason"] == "from now on by k8s"
    registry.record("course_rec@2", "eu", via="k8s")
    assert registry.end(["eu"], via="vllm") == []
    assert [row.name for row in registry.end(["eu"], reference="course_rec@1", via="k8s")] == [FIRST]
    assert running(stocked) == [("eu", SECOND), ("us", FIRST)]
    with pytest.raises(UnknownReferenceError):
        registry.end(["us"], reference="course_rec@2")
    adapters = {name: stocked.adapters.show(name) for name in ("course_rec@1", "course_rec@2")}
    assert [row.place for row in adapters["course_rec@1"].deployments] == ["us"]
    assert [row.place for row in adapters["course_rec@2"].deployments] == ["eu"]


def test_deployment_that_is_restarted_ends_and_begins(stocked: Registry) -> None:
    workspace = stocked.workspace
    stocked.deployments.record("course_rec@1", "eu", via="vllm")
    again = deployments.record_deployment(workspace, FIRST, "eu", via="vllm", restart_reason="crashed")
    assert again.changed and [row.via for row in again.ended] == ["vllm"]
    [recorded, ended] = stocked.upkeep.log()[-1:-3:-1]
    assert (recorded.action, ended.detail["reason"]) == ("deployment.recorded", "crashed")
    stocked.deployments.record("course_rec@2", "eu", via="vllm", replace=True)
    assert stocked.upkeep.log()[-2].detail["reason"] == f"replaced by {SECOND}"


def test_yanked_adapters_are_named_with_their_reasons(stocked: Registry) -> None:
    names = (FIRST, SECOND, "other")
    assert deployments.yanked_among(stocked.workspace, names) == {}
    stocked.adapters.yank("course_rec@1", reason="leaked")
    assert deployments.yanked_among(stocked.workspace, names) == {FIRST: "leaked"}
