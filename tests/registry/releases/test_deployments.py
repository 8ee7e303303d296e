"""What runs where, now and then; on both databases."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError

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
    assert (view["place"], view["kind"], view["name"], view["note"], view["changed"], view["ended"]) == (
        "eu/ranker",
        "adapter",
        FIRST,
        "rollout 7",
        True,
        [],
    )
    assert not stocked.deployments.record(FIRST, "eu/ranker")["changed"]
    stocked.deployments.record("course_rec@2", "eu/ranker")
    assert running(stocked) == [("eu/ranker", FIRST), ("eu/ranker", SECOND)]
    replaced = stocked.deployments.record("course_rec@2", "eu/ranker", replace=True)
    assert [row["name"] for row in replaced["ended"]] == [FIRST] and replaced["changed"]
    assert running(stocked) == [("eu/ranker", SECOND)]
    assert [row["name"] for row in stocked.deployments.end(["eu/ranker"], reason="sunset")] == [SECOND]
    assert running(stocked) == []
    assert running(stocked, every=True) == [("eu/ranker", FIRST), ("eu/ranker", SECOND)]
    assert told(stocked) == [
        ("deployment.recorded", "eu/ranker", FIRST),
        ("deployment.recorded", "eu/ranker", SECOND),
        ("deployment.ended", "eu/ranker", FIRST),
        ("deployment.ended", "eu/ranker", SECOND),
    ]
    assert stocked.upkeep.log()[-1]["detail"]["reason"] == "sunset"
    assert stocked.deployments.end(["eu/ranker"]) == []  # a second time changes nothing
    assert stocked.upkeep.log()[-1]["detail"]["reason"] == "sunset"
    assert stocked.upkeep.audit_chain().ok


def test_a_bundle_by_its_place_and_by_its_digest(stocked: Registry, tmp_path: Path) -> None:
    made = stocked.bundles.materialize("course_rec@2", tmp_path / "out")
    by_place = stocked.deployments.record(str(tmp_path / "out"), "one")
    by_digest = stocked.deployments.record(made.manifest.digest[:12], "two")
    assert by_place["kind"] == by_digest["kind"] == "bundle"
    assert by_place["digest"] == by_digest["digest"] == made.manifest.digest
    key = stocked.fused.fuse("course_rec@2")["key"]
    assert stocked.deployments.record(key[:12], "three")["kind"] == "fused"
    assert running(stocked, reference=str(tmp_path / "out")) == [
        ("one", f"model {tmp_path / 'out'}"),
        ("two", f"model {tmp_path / 'out'}"),
    ]
    assert running(stocked, place="three") == [("three", f"{SECOND} (keep)")]
    assert {row["place"] for row in stocked.adapters.show("course_rec@2")["deployments"]} == {
        "one",
        "two",
        "three",
    }
    found = stocked.provenance.impact("base:tiny")
    assert {row["place"] for row in found.deployments} == {"one", "two", "three"}
    assert {row["place"] for row in stocked.provenance.impact("adapter:course_rec@1").deployments} == {
        "one",
        "two",
        "three",
    }
    stocked.deployments.end(["one"])
    assert {row["place"] for row in stocked.provenance.impact("base:tiny").deployments} == {"two", "three"}


def test_what_it_is_not(stocked: Registry) -> None:
    for place in ("", "  ", "a\nb", "x" * 301):
        with pytest.raises(BadInputError, match="not a place"):
            stocked.deployments.record("course_rec@1", place)
    for reference in ("tiny", "dataset:courses"):
        with pytest.raises(BadInputError, match="neither an adapter"):
            stocked.deployments.record(reference, "here")
    with pytest.raises(UnknownReferenceError):
        stocked.deployments.record("course_rec@9", "here")
    with pytest.raises(UnknownReferenceError, match="nothing runs at 'here'"):
        stocked.deployments.end(["here"])
    assert told(stocked) == []


def test_one_place_that_is_wrong_ends_nothing(stocked: Registry) -> None:
    stocked.deployments.record("course_rec@1", "here")
    with pytest.raises(UnknownReferenceError):
        stocked.deployments.end(["here", "there"])
    assert running(stocked) == [("here", FIRST)]


def test_no_password_is_kept(stocked: Registry) -> None:
    stocked.deployments.record(
        "course_rec@1", "https://bot:s3cret@host/app", note="see https://me:s3cret@wiki/x"
    )
    assert "s3cret" not in str(stocked.deployments.list()) + str(stocked.upkeep.log())


def test_what_ran_then_is_what_a_plain_list_of_facts_says(stocked: Registry) -> None:
    """Random deployments over a year, at times of our own, against the simplest possible model of them."""
    stocked.deployments.record("course_rec@1", "seed")
    stocked.deployments.end(["seed"])
    chance, start = random.Random(7), datetime(2025, 1, 1, tzinfo=UTC)
    facts = []
    with stocked.workspace.database.write() as session:
        ids = dict(session.query(tables.Adapter.name, tables.Adapter.id).all())
        session.query(tables.Deployment).one().at = start - timedelta(days=9)
        session.query(tables.Deployment).one().ended_at = start - timedelta(days=8)
        for _ in range(200):
            at = start + timedelta(seconds=chance.randrange(365 * 86400))
            until = at + timedelta(seconds=chance.randrange(1, 90 * 86400)) if chance.random() < 0.8 else None
            name, place = chance.choice([FIRST, SECOND]), f"p{chance.randrange(6)}"
            row = tables.Deployment(adapter_id=ids[name], place=place, note="", at=at, by="x", ended_at=until)
            session.add(row)
            facts.append((at, until, place, name))
    for _ in range(60):
        at, until, _, _ = chance.choice(facts)
        edge = chance.choice([at, until or at]) + timedelta(seconds=chance.choice([-1, 0, 1]))
        wanted = sorted(
            (place, name)
            for begin, end, place, name in facts
            if begin <= edge and (end is None or end > edge)
        )
        assert sorted(running(stocked, at=edge.isoformat())) == wanted


@pytest.mark.parametrize("via", ["x" * 41, "a\nb", "https://u:pw@h/x", "-x", "vllm "])
def test_what_is_no_name_of_a_program_is_refused(stocked: Registry, via: str) -> None:
    before = stocked.upkeep.log(limit=1)
    for act in (
        lambda: stocked.deployments.record("course_rec@1", "here", via=via),
        lambda: stocked.deployments.refuse("course_rec@1", "here", reason="no", via=via),
        lambda: stocked.deployments.end(["eu/ranker"], via=via),
    ):
        with pytest.raises(BadInputError, match="keeps a deployment up to date"):
            act()
    assert stocked.upkeep.log(limit=1) == before
