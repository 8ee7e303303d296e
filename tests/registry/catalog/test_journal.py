"""The event log: filters, references, and each event in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.catalog.journal_words import told_of
from fusery.registry.database.actions import ACTIONS
from fusery.registry.database.events import record
from fusery.registry.errors import BadInputError, FidelityError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.digest import Digest

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


@pytest.fixture
def eventful(stocked: Registry, tmp_path: Path) -> tuple[Registry, dict[str, str]]:
    """A registry with events of every kind, and references of its records."""
    key = stocked.fused.fuse("course_rec@1", KEEP, publish="full")["key"]
    bundle = stocked.bundles.materialize("course_rec@1", tmp_path / "out", request=KEEP)
    stocked.aliases.set_rules("prod", {"approvals": 1}, guarded=False, reason="four eyes")
    stocked.aliases.promote("course_rec@2", "prod", reason="better")
    stocked.aliases.set("prod", "course_rec@1", reason="first")
    stocked.aliases.set("prod", "course_rec@2", reason="second")
    stocked.deployments.record(str(tmp_path / "out"), "eu/ranker", note="rollout 7")
    stocked.deployments.record("course_rec@2", "lab")
    stocked.adapters.yank("course_rec@2", reason="leaks")
    return stocked, {
        "fused": key,
        "bundle": str(bundle.manifest.digest),
        "place": str(tmp_path / "out"),
        "base": stocked.adapters.show("course_rec@1")["base"],
    }


def test_names_stand_beside_digests(eventful: tuple[Registry, dict[str, str]]) -> None:
    registry, found = eventful
    named = {(event["kind"], event["subject"]): event["name"] for event in registry.upkeep.log()}
    assert all(named.values())
    assert named["fused", found["fused"]] == f"{FIRST} (keep)"
    assert named["bundle", found["bundle"]] == f"model {found['place']}"
    assert named["adapter", SECOND] == SECOND
    assert named["deployment", "lab"] == "lab"
    assert {name for (kind, _), name in named.items() if kind == "base"} == {"tiny"}


def test_a_blob_is_called_by_the_file_that_is_made_of_it(stocked: Registry) -> None:
    files = stocked.adapters.show("course_rec@1")["files"]
    (weights,) = [file for file in files if file["path"].endswith(".safetensors")]
    store = stocked.workspace.store
    place = store.local_path(Digest(weights["sha256"]))
    assert place is not None
    place.chmod(0o600)
    place.write_bytes(b"x" * weights["size"])
    assert not stocked.upkeep.audit(repair=True).ok
    (event,) = stocked.upkeep.log(reference=weights["sha256"][:10])
    assert (event["action"], event["name"]) == ("blob.quarantined", f"{weights['path']} of {FIRST}")


def test_what_happened_in_words(eventful: tuple[Registry, dict[str, str]]) -> None:
    registry, _ = eventful
    told = {event["action"]: event["told"] for event in registry.upkeep.log()}
    assert told["alias.moved"] == f"{FIRST} -> {SECOND}; second"
    assert told["alias.refused"] == f"nobody -> {SECOND} refused: approvals: 0 of 1 approved; better"
    assert told["adapter.yanked"] == "leaks"
    assert told["bundle.written"] == FIRST
    assert told["fused.made"].startswith("PASS, ")
    assert told["rules.set"] == "not guarded, approvals=1; four eyes"
    assert told["deployment.recorded"] == f"adapter {SECOND}"
    assert registry.upkeep.log(action="alias.moved")[0]["told"] == f"nobody -> {FIRST}; first"
    assert all(told.values())
    assert all(told_of(action, {}) for action in ACTIONS), "even of another version's details"


def test_a_refused_fuse_says_why(stocked: Registry) -> None:
    request = FuseRequest(quantize=2, group_size=32, min_fidelity=1.0, scale=0.001)
    with pytest.raises(FidelityError):
        stocked.fused.fuse("course_rec@1", request)
    (event,) = stocked.upkeep.log(action="fuse.refused")
    assert event["name"] == f"{FIRST} (scale 0.001) (requantised to 2 bits, affine, groups of 32)"
    assert event["told"].startswith("not published: ") and "% of the update retained" in event["told"]


def test_refused_fuse_event_names_the_missed_limit(registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny4", bits=4)
    registry.bases.add(base, name="tiny4")
    registry.adapters.register(
        tiny_models.make_adapter(tmp_path / "a", base, update=0.01), base="tiny4", task="small"
    )
    registry.fused.fuse("small@1")
    refused = registry.upkeep.log(action="fuse.refused")
    passed = [event["told"] for event in refused if event["detail"]["verdict"] == "PASS"]
    assert passed and all("auto takes" in told and "PASS" not in told for told in passed)


def test_an_adapter_has_what_it_figures_in(eventful: tuple[Registry, dict[str, str]]) -> None:
    registry, _ = eventful
    assert actions(registry, reference="course_rec@2") == [
        "adapter.registered",
        "alias.refused",
        "alias.moved",
        "deployment.recorded",
        "adapter.yanked",
    ]
    assert actions(registry, reference="course_rec@1") == [
        "adapter.registered",
        "fused.made",
        "bundle.written",
        "alias.moved",
        "alias.moved",
    ]
    assert actions(registry, reference="course_rec@2", limit=2) == ["deployment.recorded", "adapter.yanked"]
    # What somebody wrote is no sign of it.
    registry.adapters.yank("course_rec@1", reason=SECOND)
    assert actions(registry, reference="course_rec@2")[-1] == "adapter.yanked"
    assert len(registry.upkeep.log(reference="course_rec@2", action="adapter.yanked")) == 1


def test_digests_keys_and_places_are_found(eventful: tuple[Registry, dict[str, str]]) -> None:
    registry, found = eventful
    digest = registry.adapters.show("course_rec@2")["digest"]
    assert actions(registry, reference=digest[:12]) == actions(registry, reference="course_rec@2")
    for reference in (found["bundle"], found["bundle"][:12], found["place"], f"bundle:{found['place']}"):
        assert actions(registry, reference=reference) == ["bundle.written", "deployment.recorded"]
    assert "bundle.written" in actions(registry, reference=found["fused"][:10])
    base = next(event["subject"] for event in registry.upkeep.log(action="base.added"))
    assert actions(registry, reference=base[:12]) == ["base.added"]
    assert actions(registry, reference="eu/ranker") == ["deployment.recorded"]
    assert actions(registry, reference="*#prod") == ["rules.set"]
    assert actions(registry, reference="course_rec#prod")[0] == "rules.set"


def test_an_alias_has_its_rules_and_approvals(eventful: tuple[Registry, dict[str, str]]) -> None:
    registry, _ = eventful
    with_rules = ["rules.set", "alias.refused", "alias.moved", "alias.moved"]
    assert actions(registry, reference="course_rec#prod") == with_rules
    with registry.workspace.database.write() as session:
        for alias in ("prod", "canary"):
            event = {"action": "adapter.approved", "kind": "adapter", "subject": FIRST, "actor": "eve"}
            record(session, detail={"digest": "d", "alias": alias, "reason": "prod"}, **event)
    registry.aliases.set_rules("course_rec#prod", {"approvals": 2})
    registry.aliases.remove_rules("course_rec#prod")
    later = ["adapter.approved", "rules.set", "rules.removed"]
    assert actions(registry, reference="course_rec#prod") == with_rules + later
    assert actions(registry, reference="course_rec#canary") == ["adapter.approved"]
    for reference in ("other#prod", "course_rec#none"):
        with pytest.raises(UnknownReferenceError):
            registry.upkeep.log(reference=reference)


@pytest.mark.parametrize(
    ("action", "detail", "words"),
    [
        ("key.trusted", {"aliases": [], "fused": True}, "for fused models of other registries"),
        ("key.trusted", {"aliases": ["*#p"], "fused": True}, "for *#p and fused models of other registries"),
        ("key.trusted", {"aliases": ["a#b", "*#c"]}, "for a#b, *#c"),
        (
            "alias.confirmed",
            {"from": None, "to": {"name": FIRST}, "reason": "typo"},
            f"{FIRST} holds it still",
        ),
        (
            "fused.confirmed",
            {"registry": "1" * 36, "claimed": "a" * 64, "made": "a" * 64},
            "registry 11111111",
        ),
        ("fused.refuted", {"registry": "1" * 36, "claimed": "a" * 64, "made": "b" * 64}, "registry 11111111"),
        ("guards.mended", {"mended": ["event_append"]}, "made anew: event_append"),
        ("adapter.amended", {"changes": [{"field": "a", "from": 0.5, "to": None}]}, "a 0.5 -> null"),
        ("adapter.signed", {"key_id": "c" * 64}, "with the key cccccccccccc"),
        ("key.revoked", {"reason": ""}, "its signatures count no more"),
        ("registry.adopted", {"fused": 0, "approvals": 2}, "taken at nobody's word: 2 approvals"),
    ],
)
def test_each_action_in_words(action: str, detail: dict[str, object], words: str) -> None:
    told = told_of(action, detail)
    assert told.startswith(words)
    for name in ("claimed", "made"):
        assert str(detail.get(name, ""))[:12] in told
