"""Promotion: an alias moves to an adapter that fulfils its rules; else it stays, and the log says why."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import AliasGuardedError, BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.releases import promote as promotion
from fusery.registry.workspace.workspace import Workspace

MakeAdapter = Callable[..., Path]
FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
PROD = "course_rec#prod"


def states(promoted: Any) -> dict[str, str]:
    return {outcome.rule: outcome.state for outcome in promoted.rules}


def why(promoted: Any, rule: str) -> str:
    return next(str(outcome.why) for outcome in promoted.rules if outcome.rule == rule)


def test_without_rules_it_is_a_move_and_a_guarded_alias_is_moved_by_promotion_only(stocked: Registry) -> None:
    done = stocked.aliases.promote("course_rec@1", "prod", reason="launch")
    assert (done.verdict, done.exit_code, done.moved, done.holder) == ("passed", 0, True, None)
    assert stocked.aliases.show(PROD)["adapter"] == FIRST
    assert stocked.aliases.history(PROD)[0]["reason"] == "launch"
    again = stocked.aliases.promote("course_rec@1", PROD)
    assert (again.exit_code, again.moved, again.holder) == (0, False, FIRST)
    assert len(stocked.aliases.history(PROD)) == 1
    stocked.aliases.set("prod", "course_rec@2")
    stocked.aliases.set_rules("prod", {"admission": "no_errors"})
    moves: list[Callable[[], Any]] = [
        lambda: stocked.aliases.set("prod", "course_rec@1"),
        lambda: stocked.aliases.set("prod", "course_rec@2"),
        lambda: stocked.aliases.remove(PROD),
        lambda: stocked.aliases.roll_back(PROD),
    ]
    for move in moves:
        with pytest.raises(AliasGuardedError) as caught:
            move()
        assert "fusery promote" in str(caught.value.hint)
    assert stocked.aliases.show(PROD)["adapter"] == SECOND
    stocked.aliases.set("canary", "course_rec@1")  # another alias is free
    assert stocked.aliases.promote("course_rec@1", "prod").moved
    stocked.aliases.set_rules("prod", {"admission": "no_errors"}, guarded=False)
    assert stocked.aliases.set("prod", "course_rec@2")["moved"]


def test_an_emergency_is_a_way_out_and_is_logged(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set("prod", "course_rec@2")
    stocked.aliases.set_rules("prod", {"val_loss_within": 0.0})
    assert stocked.aliases.promote("course_rec@1", "prod").verdict == "failed"
    for reason in ("", " "):
        for move in (stocked.aliases.roll_back, stocked.aliases.remove):
            with pytest.raises(BadInputError):
                move(PROD, emergency=True, reason=reason)
    assert stocked.aliases.roll_back(PROD, emergency=True, reason="it swears")["to"] == FIRST
    stocked.aliases.remove(PROD, emergency=True, reason="that one, too")
    told = [event["detail"] for event in stocked.upkeep.log(reference=PROD, action="alias.moved")[-2:]]
    assert [detail["reason"] for detail in told] == ["it swears", "that one, too"]
    assert all(detail["emergency"] for detail in told)
    stocked.adapters.yank("course_rec@1", reason="bad")
    with pytest.raises(BadInputError):
        stocked.aliases.roll_back(PROD, emergency=True, reason="back")


def test_refusals_and_promotions_are_logged_with_reasons_and_dry_runs_not(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"approvals": 1, "fidelity": "PASS", "admission": "no_errors"})
    refused = stocked.aliases.promote("course_rec@2", "prod", reason="it is better")
    assert (refused.verdict, refused.exit_code, refused.moved) == ("failed", 1, False)
    passed = {"not_yanked": "passed", "admission": "passed"}
    assert states(refused) == {**passed, "fidelity": "unknown", "approvals": "failed"}
    rules, event = stocked.upkeep.log(reference=PROD)
    assert rules["action"] == "rules.set"
    assert (event["action"], event["actor"], event["subject"]) == ("alias.refused", "tester", PROD)
    detail = event["detail"]
    assert (detail["from"], detail["to"]["name"]) == (None, SECOND)
    assert (detail["verdict"], detail["reason"]) == ("failed", "it is better")
    assert [reason.partition(":")[0] for reason in detail["reasons"]] == ["fidelity", "approvals"]
    assert detail["rules"] == refused.to_dict()["rules"]
    before = len(stocked.upkeep.log())
    assert stocked.aliases.promote("course_rec@1", "prod", dry_run=True).exit_code == 1
    stocked.aliases.set_rules("prod", {"admission": "no_errors"})
    assert stocked.aliases.promote("course_rec@1", "prod", dry_run=True).exit_code == 0
    assert len(stocked.upkeep.log()) == before + 1 and stocked.aliases.list() == []
    done = stocked.aliases.promote("course_rec@2", "prod")
    [event] = stocked.upkeep.log(reference=PROD, action="alias.moved")
    assert event["detail"]["rules"] == done.to_dict()["rules"]
    assert event["detail"]["reason"] == "promoted"
    assert stocked.upkeep.audit().ok


def test_yanked_and_unknown_adapters_are_not_promoted(stocked: Registry) -> None:
    stocked.adapters.yank("course_rec@1", reason="wrong licence")
    refused = stocked.aliases.promote("course_rec@1", "prod")
    assert (refused.exit_code, states(refused)) == (1, {"not_yanked": "failed"})
    assert "wrong licence" in why(refused, "not_yanked")
    assert len(stocked.upkeep.log(reference=PROD, action="alias.refused")) == 1
    with pytest.raises(UnknownReferenceError):
        stocked.aliases.promote("course_rec@9", "prod")
    for alias in ("latest", "other#prod", "", "a b"):
        with pytest.raises(BadInputError):
            stocked.aliases.promote("course_rec@2", alias)
    for reference, note in (("course_rec@1", ""), ("course_rec@2", "x" * 10_001)):
        with pytest.raises(BadInputError):
            stocked.acting("ann").aliases.approve(reference, "prod", note=note)


def test_admission_and_rules_of_a_newer_version(stocked: Registry, make_adapter: MakeAdapter) -> None:
    stocked.adapters.register(make_adapter("early", seed=5), base="tiny", task="course_rec", date="20200101")
    stocked.aliases.set_rules("prod", {"admission": "clean"})
    refused = stocked.aliases.promote("course_rec@3", "prod")
    assert (refused.exit_code, "date_implausible" in why(refused, "admission")) == (1, True)
    stocked.aliases.set_rules("prod", {"admission": "no_errors"})
    assert stocked.aliases.promote("course_rec@3", "prod").exit_code == 0
    with stocked.workspace.database.write() as session:
        row = session.scalars(select(tables.AliasRuleRow)).one()
        row.rules = {**row.rules, "probed": {"agreement": 0.9}}
    undecided = stocked.aliases.promote("course_rec@1", "prod")
    assert (undecided.exit_code, states(undecided)["rules"]) == (3, "unknown")


def test_validation_loss(stocked: Registry, make_adapter: MakeAdapter) -> None:
    losses = (0.7, 0.6, 0.8, 0.8000001, 0.71, None)
    folders = [make_adapter(f"a{number}", seed=10 + number, num_layers=1) for number in range(len(losses))]
    version = {
        loss: stocked.adapters.register(folder, base="tiny", task="other", val_loss=loss)["version"]
        for loss, folder in zip(losses, folders, strict=True)
    }
    version["again"] = version[0.7]
    cases: list[tuple[Any, Any, float, int]] = [
        (0.7, "again", 0.0, 0),
        (0.7, 0.6, 0.0, 0),
        (0.7, 0.8, 0.1, 0),  # in binary, 0.7 + 0.1 is less than 0.8
        (0.7, 0.8000001, 0.1, 1),
        (0.7, 0.71, 0.0, 1),
        (0.7, None, 0.5, 3),
        (None, 0.7, 0.5, 3),
    ]
    for number, (holder, candidate, within, code) in enumerate(cases):
        alias = f"case-{number}"
        stocked.aliases.set_rules(alias, {"val_loss_within": within})
        first = stocked.aliases.promote(f"other@{version[holder]}", alias)
        assert first.exit_code == 0, "there is nobody to be worse than"
        done = stocked.aliases.promote(f"other@{version[candidate]}", alias)
        assert done.exit_code == code, (holder, candidate)
        held = version[holder] if code else version[candidate]
        assert stocked.adapters.show(f"other#{alias}")["version"] == held


def test_the_holder_is_judged_once_more(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"val_loss_within": 0.0, "admission": "no_errors"})
    assert stocked.aliases.promote("course_rec@1", "prod").moved
    assert stocked.aliases.promote("course_rec@2", "prod").moved
    log = len(stocked.upkeep.log())
    assert not stocked.aliases.promote(SECOND, "prod").confirmed
    assert len(stocked.upkeep.log()) == log, "there was nothing to judge once more"
    stocked.adapters.amend(SECOND, val_loss=0.7, reason="typo")
    refused = stocked.aliases.promote(SECOND, "prod")
    assert (refused.verdict, refused.holder, refused.moved) == ("failed", SECOND, False)
    assert not refused.confirmed
    assert not stocked.upkeep.audit().ok
    stocked.adapters.amend(SECOND, val_loss=0.55, reason="typo")
    assert not stocked.aliases.promote(SECOND, "prod", dry_run=True).confirmed
    assert not stocked.upkeep.audit().ok
    done = stocked.aliases.promote(SECOND, "prod")
    assert (done.verdict, done.holder, done.moved, done.confirmed) == ("passed", SECOND, False, True)
    assert stocked.upkeep.log()[-1]["action"] == "alias.confirmed"
    assert stocked.upkeep.audit().ok


def test_fidelity(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"fidelity": "PASS"})
    unknown = stocked.aliases.promote("course_rec@1", "prod")
    assert (unknown.verdict, unknown.exit_code) == ("unknown", 3)
    assert unknown.rules[-1].hint == f"fusery fuse {FIRST}"
    refused = stocked.upkeep.log(reference=PROD, action="alias.refused")
    assert [event["detail"]["verdict"] for event in refused] == ["unknown"]
    stocked.fused.fuse("course_rec@1", FuseRequest(scale=5.0))
    stocked.fused.fuse("course_rec@1", FuseRequest(extras=(("course_rec@2", 0.5),)))
    assert stocked.aliases.promote("course_rec@1", "prod").exit_code == 3, "neither is the adapter itself"
    assert stocked.fused.fuse("course_rec@1")["fidelity"]["verdict"] == "PASS"
    assert stocked.aliases.promote("course_rec@1", "prod", dry_run=True).exit_code == 0
    # Earlier versions recorded PASS for a fuse that overshoots.
    for retained, exit_code in ((1.936, 1), (0.064, 1), (1.1, 3), (1.04, 0)):
        with stocked.workspace.database.write() as session:
            for row in session.scalars(select(tables.FusedRow)):
                row.retained = retained
        assert stocked.aliases.promote("course_rec@1", "prod", dry_run=True).exit_code == exit_code


@pytest.fixture
def four(registry: Registry, tmp_path: Path, make_adapter: MakeAdapter) -> Registry:
    """A registry with a 4-bit base, and adapters with a small and a large update."""
    base = tiny_models.make_base(tmp_path / "four", bits=4, layers=2)
    registry.bases.add(base, name="four")
    for task, update in (("quiet", 0.002), ("loud", 0.2)):
        registry.adapters.register(make_adapter(task, base=base, update=update), base="four", task=task)
    return registry


def test_a_fuse_that_lost_the_update_is_not_enough(four: Registry) -> None:
    made = four.fused.fuse("quiet@1", FuseRequest(precision="keep", accept_loss=True))
    assert made["fidelity"]["verdict"] == "LOST"
    four.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    refused = four.aliases.promote("quiet@1", "prod")
    assert (refused.exit_code, "LOST" in why(refused, "fidelity")) == (1, True)
    assert four.fused.fuse("quiet@1", precision="dequantize")["fidelity"]["verdict"] == "UNSURE"
    assert four.aliases.promote("quiet@1", "prod").exit_code == 0


def test_licences(registry: Registry, tmp_path: Path, make_adapter: MakeAdapter) -> None:
    """Of the base, as its configuration or the text beside its weights says, and of the adapter."""
    cases = [
        ("Apache-2.0", "MIT", 0),
        ("apache-2.0", "cc-by-nc-4.0", 1),
        ("llama3", "mit", 1),
        (None, "mit", 3),
        (None, "cc-by-nc-4.0", 1),
        ("MIT License\n\nCopyright", None, 0),
    ]
    registry.aliases.set_rules("prod", {"licences": ["MIT", "apache-2.0"]})
    for number, (licence, of_adapter, code) in enumerate(cases):
        name = f"base-{number}"
        base = tiny_models.make_base(tmp_path / name, layers=1, seed=number)
        if licence is not None and "\n" in licence:
            (base / "LICENSE").write_text(licence, encoding="utf-8")
        elif licence is not None:
            config = json.loads((base / "config.json").read_text(encoding="utf-8"))
            (base / "config.json").write_text(json.dumps({**config, "license": licence}), encoding="utf-8")
        registry.bases.add(base, name=name)
        folder = make_adapter(f"a{number}", base=base, num_layers=1, seed=number)
        tags = {"license": of_adapter} if of_adapter else {}
        registry.adapters.register(folder, base=name, task=f"t{number}", tags=tags)
        assert registry.aliases.promote(f"t{number}@1", "prod").exit_code == code, (licence, of_adapter)


def test_approvals_come_from_others_and_from_each_once(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"approvals": 2})
    ann, ann_elsewhere, bob = (
        stocked.acting(name, authenticated=False) for name in ("ann", "Ann (laptop)", "bob")
    )
    with pytest.raises(BadInputError):
        stocked.aliases.approve("course_rec@1", "prod")
    first = ann.aliases.approve("course_rec@1", "prod", note="looked at the answers")
    assert (first["changed"], first["by"], first["approvals"]) == (True, "ann", ["ann"])
    again = ann_elsewhere.aliases.approve("course_rec@1", PROD)
    assert (again["changed"], again["by"], again["approvals"]) == (False, "ann", ["ann"])
    bob.aliases.approve("course_rec@2", "prod")
    bob.aliases.approve("course_rec@1", "canary")
    assert stocked.aliases.promote("course_rec@1", "prod").exit_code == 1, "another version, another alias"
    bob.aliases.approve("course_rec@1", "prod")
    assert bob.aliases.withdraw_approval("course_rec@1", "prod")["changed"]
    assert not bob.aliases.withdraw_approval("course_rec@1", "prod")["changed"]
    refused = stocked.aliases.promote("course_rec@1", "prod")
    assert (refused.exit_code, why(refused, "approvals")) == (1, "1 of 2 approved: ann")
    bob.aliases.approve("course_rec@1", "prod")
    assert stocked.aliases.promote("course_rec@1", "prod").exit_code == 0
    log = [event for event in stocked.upkeep.log(reference="course_rec@1") if "approved" in event["action"]]
    assert [(event["action"], event["actor"], event["detail"]["alias"]) for event in log] == [
        ("adapter.approved", "ann", "prod"),
        ("adapter.approved", "bob", "canary"),
        ("adapter.approved", "bob", "prod"),
        ("adapter.unapproved", "bob", "prod"),
        ("adapter.approved", "bob", "prod"),
    ]
    assert stocked.upkeep.audit().ok


def test_a_rule_may_count_only_approvals_that_rest_on_tokens(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"approvals": 2, "authenticated": True})
    ann, lesser = stocked.acting("ann"), stocked.acting("ann", authenticated=False)
    lesser.aliases.approve("course_rec@1", "prod")
    given = stocked.acting("bob").aliases.approve("course_rec@1", "prod")
    assert (given.authenticated, given.approvals) == (True, ("ann", "bob"))
    refused = stocked.aliases.promote("course_rec@1", "prod")
    assert refused.exit_code == 1
    assert why(refused, "approvals") == "1 of 2 approved, authenticated: bob; without a token: ann"
    again = ann.aliases.approve("course_rec@1", "prod")
    assert (again.changed, again.authenticated, again.approvals) == (True, True, ("ann", "bob"))
    assert not ann.aliases.approve("course_rec@1", "prod").changed
    less = lesser.aliases.approve("course_rec@1", "prod")
    assert (less.changed, less.authenticated) == (False, False)
    passed = stocked.aliases.promote("course_rec@1", "prod")
    assert why(passed, "approvals") == "2 of 2 approved, authenticated: ann, bob"
    assert ann.aliases.withdraw_approval("course_rec@1", "prod").approvals == ("bob",)
    with pytest.raises(BadInputError):
        stocked.acting("tester").aliases.approve("course_rec@1", "prod")
    told = [event.detail.get("authenticated") for event in stocked.upkeep.log() if "approved" in event.action]
    assert told == [None, True, True, True]
    assert stocked.upkeep.audit().ok


def test_who_brings_an_adapter_does_not_approve_of_it(stocked: Registry, tmp_path: Path) -> None:
    """Where tokens say who approves: that somebody else made it is what the bringer's own machine said."""
    with Registry.open(tmp_path / "team") as team:
        team.init()
        stocked.acting("ann").exchange.push("course_rec@1", team.workspace.settings.home)
        assert team.adapters.show("course_rec@1").created_by == "tester"
        with pytest.raises(BadInputError):
            team.acting("ann (laptop)").aliases.approve("course_rec@1", "prod")
        assert team.acting("bob").aliases.approve("course_rec@1", "prod").approvals == ("bob",)
        given = team.acting("ann", authenticated=False).aliases.approve("course_rec@1", "prod")
        assert (given.approvals, given.authenticated) == (("ann", "bob"), False)


def test_an_approval_of_the_author_under_another_name_does_not_count(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"approvals": 1})
    with stocked.workspace.database.write() as session:
        adapter = session.scalars(select(tables.AdapterRow).where(tables.AdapterRow.version == 1)).one()
        at = stocked.workspace.database.utcnow(session)
        by = "Tester (laptop)"
        session.add(tables.ApprovalRow(adapter_id=adapter.id, alias="prod", note="", at=at, by=by))
    assert stocked.aliases.promote("course_rec@1", "prod").exit_code == 1


@pytest.mark.timing
@pytest.mark.parametrize("held", [True, False])
def test_promotions_at_once_let_no_worse_one_in(
    stocked: Registry, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    """The third version is better than the second, which begins while the third is decided upon but not moved.

    Compared with the former holder, both would pass, and the second version could come last.
    """
    stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="course_rec", val_loss=0.30)
    if held:  # else both are the first promotion to the alias
        stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set_rules("prod", {"val_loss_within": 0.0})
    judged, decided = promotion.judge, threading.Event()

    def slowly(case: Any, rule: Any) -> Any:
        outcomes = judged(case, rule)
        if case.adapter.version == 3:
            decided.set()
            threading.Event().wait(0.5)
        return outcomes

    monkeypatch.setattr(promotion, "judge", slowly)
    done: dict[int, Any] = {}

    def run(version: int) -> None:
        settings = replace(stocked.workspace.settings, user=f"user{version}")
        with Registry(Workspace(settings)) as mine:
            done[version] = mine.aliases.promote(f"course_rec@{version}", "prod")

    threads = [threading.Thread(target=run, args=(version,)) for version in (3, 2)]
    threads[0].start()
    assert decided.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert (done[3].moved, done[2].exit_code, done[2].holder) == (True, 1, done[3].adapter)
    assert stocked.aliases.show(PROD)["adapter"] == done[3].adapter
    assert len(stocked.upkeep.log(reference=PROD, action="alias.refused")) == 1
    assert stocked.upkeep.audit_chain().ok
