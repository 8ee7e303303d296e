"""The event log: filters, references, and each event in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.catalog.event_log import summary_of
from fusery.registry.database.events import ACTIONS, record
from fusery.registry.errors import BadInputError, FidelityError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
KEEP = FuseRequest(precision="keep", accept_loss=True)


def actions(registry: Registry, **filters: Any) -> list[str]:
    return [event["action"] for event in registry.upkeep.log(**filters)]


def test_all_of_it_in_order_and_filtered(stocked: Registry) -> None:
    told = stocked.upkeep.log()
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    names = ["registry.made", "base.added", "adapter.registered", "adapter.registered"]
    assert actions(stocked) == names
    assert {event["actor"] for event in told} == {"tester"}
    assert told[-1]["detail"]["val_loss"] == 0.42
    assert actions(stocked, reference="course_rec@1") == actions(stocked, reference=SECOND) == names[2:3]
    assert actions(stocked, reference="tiny") == names[1:2]
    assert len(stocked.upkeep.log(action="adapter.registered")) == 2
    assert [event["seq"] for event in stocked.upkeep.log(limit=1)] == [4]
    assert stocked.upkeep.log(before=4) == told[:-1]
    assert stocked.upkeep.log(before=4, limit=1) == told[-2:-1]
    assert stocked.upkeep.log(before=1) == []
    assert stocked.upkeep.log(after=2) == told[2:]
    assert stocked.upkeep.log(since="2100-01-01") == []
    assert len(stocked.upkeep.log(since="2020-01-01T00:00+02:00")) == 4
    for reference in ("nothing@1", "course_rec#prod", "abcdef0123", "no place"):
        with pytest.raises(UnknownReferenceError):
            stocked.upkeep.log(reference=reference)
    with pytest.raises(BadInputError):
        stocked.upkeep.log(since="yesterday")


def test_an_unknown_action_is_an_error_that_lists_the_known_ones(stocked: Registry) -> None:
    with pytest.raises(BadInputError) as refused:
        stocked.upkeep.log(action="adapter.yankd")
    assert refused.value.hint is not None and "did you mean adapter.yanked?" in refused.value.hint
    assert all(name in refused.value.hint for name in ACTIONS)
    assert stocked.upkeep.log(action="adapter.yanked") == []


def test_a_bundle_is_named_by_the_place_that_its_entry_tells_of(stocked: Registry, tmp_path: Path) -> None:
    for place in ("one", "two"):
        stocked.bundles.materialize("course_rec@1", tmp_path / place, request=KEEP)
    told = stocked.upkeep.log(action="bundle.written")
    assert len({event["subject"] for event in told}) == 1
    assert [event["name"] for event in told] == [f"model {tmp_path / place}" for place in ("one", "two")]


def test_events_of_every_kind(stocked: Registry, tmp_path: Path) -> None:
    """Names and words of events, and those of each adapter, key, digest, place and alias."""
    registry, log, place = stocked, stocked.upkeep.log, str(tmp_path / "out")
    key = registry.fused.fuse("course_rec@1", KEEP, publish="full")["key"]
    bundle = str(registry.bundles.materialize("course_rec@1", tmp_path / "out", request=KEEP).manifest.digest)
    registry.aliases.set_rules("prod", {"approvals": 1}, guarded=False, reason="four eyes")
    registry.aliases.promote("course_rec@2", "prod", reason="better")
    registry.aliases.set("prod", "course_rec@1", reason="first")
    registry.aliases.set("prod", "course_rec@2", reason="second")
    registry.deployments.record(place, "eu/ranker", note="rollout 7")
    registry.deployments.record("course_rec@2", "lab")
    registry.adapters.yank("course_rec@2", reason="leaks")
    named = {(event["kind"], event["subject"]): event["name"] for event in log()}
    assert all(named.values())
    assert named["fused", key] == f"{FIRST} (keep)"
    assert named["bundle", bundle] == f"model {place}"
    assert (named["adapter", SECOND], named["deployment", "lab"]) == (SECOND, "lab")
    assert {name for (kind, _), name in named.items() if kind == "base"} == {"tiny"}
    told = {event["action"]: event["summary"] for event in log()}
    assert told["alias.moved"] == f"{FIRST} -> {SECOND}; second"
    assert told["alias.refused"] == f"none -> {SECOND} refused: approvals: 0 of 1 approved; better"
    assert (told["adapter.yanked"], told["bundle.written"]) == ("leaks", FIRST)
    assert told["fused.made"].startswith("PASS, ")
    assert told["rules.set"] == "not guarded, approvals=1; four eyes"
    assert told["deployment.recorded"] == f"adapter {SECOND}"
    assert log(action="alias.moved")[0]["summary"] == f"none -> {FIRST}; first"
    assert all(told.values())

    def of(reference: str, **options: int) -> list[str]:
        return [name.partition(".")[2] for name in actions(registry, reference=reference, **options)]

    assert of("course_rec@2") == ["registered", "refused", "moved", "recorded", "yanked"]
    assert of("course_rec@1") == ["registered", "made", "written", "moved", "moved"]
    assert of("course_rec@2", limit=2) == ["recorded", "yanked"]
    digests = {name: registry.adapters.show(name)["digest"] for name in (FIRST, SECOND)}
    assert of(digests[SECOND][:12]) == of("course_rec@2")
    for reference in (bundle, bundle[:12], place, f"bundle:{place}"):
        assert of(reference) == ["written", "recorded"]
    assert "written" in of(key[:10])
    assert of(log(action="base.added")[0]["subject"][:12]) == ["added"]
    assert (of("eu/ranker"), of("*#prod")) == (["recorded"], ["set"])
    assert of("course_rec#prod") == ["set", "refused", "moved", "moved"]
    with registry.workspace.database.write() as session:
        about: dict[str, Any] = {"kind": "adapter", "subject": FIRST, "actor": "eve"}
        for alias in ("prod", "canary"):
            detail = {"digest": "d", "alias": alias, "reason": "prod"}
            record(session, action="adapter.approved", detail=detail, **about)
    registry.aliases.set_rules("course_rec#prod", {"approvals": 2})
    registry.aliases.remove_rules("course_rec#prod")
    assert of("course_rec#prod") == ["set", "refused", "moved", "moved", "approved", "set", "removed"]
    assert of("course_rec#canary") == ["approved"]
    for reference in ("other#prod", "course_rec#none"):
        with pytest.raises(UnknownReferenceError):
            log(reference=reference)
    registry.adapters.yank("course_rec@1", reason=SECOND)  # a reason is no reference
    assert len(log(reference="course_rec@2", action="adapter.yanked")) == 1


def test_a_refused_fuse_says_why(stocked: Registry) -> None:
    request = FuseRequest(quantize=2, group_size=32, min_fidelity=1.0, scale=0.001)
    with pytest.raises(FidelityError):
        stocked.fused.fuse("course_rec@1", request)
    (event,) = stocked.upkeep.log(action="fuse.refused")
    assert event["name"] == f"{FIRST} (scale 0.001) (requantised to 2 bits, affine, groups of 32)"
    assert event["summary"] == f"not published: {event['detail']['reason']}"


def test_refused_fuse_event_names_the_missed_limit(registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny4", bits=4)
    registry.bases.add(base, name="tiny4")
    folder = tiny_models.make_adapter(tmp_path / "a", base, update=0.01)
    registry.adapters.register(folder, base="tiny4", task="small")
    registry.fused.fuse("small@1")
    tried = registry.upkeep.log(action="fuse.tried")
    unsure = [event["summary"] for event in tried if event["detail"]["verdict"] == "UNSURE"]
    assert unsure and all("PASS requires" in told and "UNSURE" in told for told in unsure)


@pytest.mark.parametrize(
    ("action", "detail", "words"),
    [
        ("key.trusted", {"aliases": ["*#p"], "fused": True}, "for *#p and fused models of other registries"),
        (
            "fused.confirmed",
            {"registry": "1" * 36, "claimed": "a" * 64, "made": "a" * 64},
            "registry 11111111",
        ),
        ("fused.refuted", {"registry": "1" * 36, "claimed": "a" * 64, "made": "b" * 64}, "registry 11111111"),
        ("adapter.amended", {"changes": [{"field": "a", "from": 0.5, "to": None}]}, "a 0.5 -> null"),
        *((action, {}, "") for action in ACTIONS),
    ],
)
def test_actions_in_words(action: str, detail: dict[str, object], words: str) -> None:
    assert summary_of(action, {}), "even of another version's details"
    told = summary_of(action, detail)
    assert told.startswith(words)
    for name in ("claimed", "made"):
        assert str(detail.get(name, ""))[:12] in told
