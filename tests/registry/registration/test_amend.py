"""Declared facts of an adapter are amended: which, by which rules, and what views show now and at any moment."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import select

from fusery.cli.command import MADE
from fusery.cli.main import cli
from fusery.registry import Registry, tables
from fusery.registry.admission.submission import Corrections
from fusery.registry.errors import AlreadyExistsError, BadInputError, RoleError, UnknownReferenceError
from fusery.registry.records import amendments
from fusery.registry.records.amendments import FIELDS
from fusery.registry.registration import amend
from fusery.web.sheets import saved

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def actions(registry: Registry) -> list[str]:
    return [event["action"] for event in registry.upkeep.log()]


def changes(view: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(each["field"], each["from"], each["to"]) for each in view["amendments"]]


def test_an_amendment_is_shown_and_logged(stocked: Registry) -> None:
    done = stocked.adapters.amend("course_rec@1", val_loss=0.061, reason="typo")
    [told] = stocked.adapters.show(ONE)["amendments"]
    assert told == done.amendments[0].to_dict()
    expected = {"field": "val_loss", "from": 0.61, "to": 0.061, "reason": "typo", "by": "tester"}
    assert {key: told[key] for key in expected} == expected
    event = stocked.upkeep.log()[-1]
    assert (event["action"], event["subject"], event["actor"]) == ("adapter.amended", ONE, "tester")
    assert event["detail"]["changes"] == [{"field": "val_loss", "from": 0.61, "to": 0.061}]
    assert {record["kind"] for record in event["records"]} == {"adapter", "amendment"}


def test_a_role_amends_what_it_may(stocked: Registry) -> None:
    with pytest.raises(RoleError):
        stocked.acting("ann", role="publisher").adapters.amend(ONE, val_loss=0.5, reason="measured")
    assert stocked.acting("bob", role="approver").adapters.amend(ONE, val_loss=0.5, reason="x").changed


def test_only_the_amended_fields_change(stocked: Registry) -> None:
    before = stocked.adapters.show(ONE)
    said = {"val_loss": 0.1, "note": "looked at again", "dataset": "courses-2026", "dataset_revision": "v2"}
    said |= {"dataset_digest": "AB" * 32, "examples": 121, "date": "2026-01-14"}
    stocked.adapters.amend(ONE, **said, tags={"Team": "search", "run": "7"}, reason="the run's sheet")
    after = stocked.adapters.show(ONE)
    said |= {"dataset_digest": "ab" * 32, "date": "20260114", "tags": {"run": "7", "team": "search"}}
    assert {field: after[field] for field in said} == said
    assert {key for key in before if before[key] != after[key]} == {*said, "amendments"}
    assert after["name"] == ONE
    assert stocked.upkeep.audit().ok


def test_every_field_that_may_be_amended_is_an_option() -> None:
    cli.get_command(click.Context(cli), "edit")
    fields = {*FIELDS, "tags", "clear", "reason"}
    assert Corrections.__annotations__.keys() >= fields
    assert {option.name for option in MADE["edit"].params} >= fields


def test_fields_are_cleared(stocked: Registry) -> None:
    stocked.adapters.amend(TWO, clear=["val_loss", "dataset", "tag.team"], reason="wrong split")
    shown = stocked.adapters.show(TWO)
    assert (shown["val_loss"], shown["dataset"], shown["tags"]) == (None, None, {})
    assert changes(shown) == [
        ("val_loss", 0.42, None),
        ("dataset", "courses", None),
        ("tag.team", "search", None),
    ]
    stocked.adapters.amend(TWO, tags={"team": "ads"})
    assert stocked.adapters.show(TWO)["tags"] == {"team": "ads"}
    assert stocked.upkeep.audit().ok


def test_all_but_tags_and_notes_need_a_reason(stocked: Registry) -> None:
    before, log = stocked.adapters.show(ONE), actions(stocked)
    facts: list[dict[str, Any]] = [{"val_loss": 0.1}, {"dataset": "x"}, {"examples": 1}, {"date": "20260114"}]
    for each in (*facts, {"clear": ["examples"]}):
        with pytest.raises(BadInputError):
            stocked.adapters.amend(ONE, **each)
        with pytest.raises(BadInputError):
            stocked.adapters.amend(ONE, note="so", reason="  ", **each)
    done = stocked.adapters.amend(ONE, val_loss=0.61, dataset="courses", tags={}, clear=["note"])
    assert (done.amendments, done.to_dict()["changed"]) == ((), False), "it is on record already"
    assert (stocked.adapters.show(ONE), actions(stocked)) == (before, log)
    stocked.adapters.amend(ONE, note="first try", tags={"team": "search"})
    assert changes(stocked.adapters.show(ONE)) == [("note", None, "first try"), ("tag.team", None, "search")]


BAD: list[dict[str, Any]] = [
    {},
    {"rank": 4},
    *({"val_loss": value} for value in (float("nan"), "0.3", -0.1)),
    *({"examples": value} for value in (-1, 2**31)),
    *({"date": value} for value in ("29990101", "yesterday", "")),
    *({"note": value} for value in ("a\x00b", "")),
    *({"dataset": value} for value in ("", "\ud800")),
    {"dataset_digest": "abc"},
    {"dataset_revision": "r" * 201},
    *({"tags": value} for value in ({"no spaces": "x"}, {"a": "1", "A": "2"})),
    *({"clear": [field]} for field in ("tag.no spaces", "date", "colour", "rank", "base")),
    {"clear": ["note"], "note": "x"},
    {"note": "x", "reason": "a\x00b"},
]


def test_invalid_amendments_change_nothing(stocked: Registry) -> None:
    before, log = stocked.adapters.show(ONE), actions(stocked)
    for facts in BAD:
        with pytest.raises(BadInputError):
            stocked.adapters.amend(ONE, **{"reason": "typo", **facts})
    with pytest.raises(UnknownReferenceError):
        stocked.adapters.amend("course_rec@9", note="x")
    assert (stocked.adapters.show(ONE), actions(stocked)) == (before, log)
    stocked.adapters.amend(ONE, clear=["dataset"], reason="none")
    with pytest.raises(BadInputError):  # a revision of no dataset
        stocked.adapters.amend(ONE, dataset_revision="v2", reason="forgotten")


def test_the_number_of_amendments_and_tags_is_limited(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = {"AMENDMENTS": {"val_loss": 0.5}, "REMARKS": {"note": "x"}}
    for limit, values in limited.items():
        with monkeypatch.context() as patch, pytest.raises(BadInputError):
            patch.setattr(amendments, limit, 0)
            stocked.adapters.amend(ONE, **values, reason="measured")
    monkeypatch.setattr(amend, "TAGS", 1)
    stocked.adapters.amend(ONE, tags={"a": "1"})
    with pytest.raises(BadInputError):
        stocked.adapters.amend(ONE, tags={"b": "1"})


def test_a_dataset_that_others_have_stays_theirs(stocked: Registry) -> None:
    stocked.adapters.amend(ONE, dataset="catalogue", reason="typo")
    assert [view["dataset"] for view in stocked.adapters.list(sort="version")] == ["catalogue", "courses"]
    stocked.adapters.amend(TWO, dataset="catalogue", reason="typo")
    with stocked.workspace.database.read() as session:
        assert sorted(session.scalars(select(tables.DatasetRow.name))) == ["catalogue", "courses"]


def test_lists_filter_and_sort_by_what_is_right(stocked: Registry) -> None:
    said: dict[str, Any] = {"val_loss": 0.1, "date": "20260301", "tags": {"team": "ads"}, "dataset": "x"}
    stocked.adapters.amend(ONE, **said, reason="r")
    assert [view["name"] for view in stocked.adapters.list(sort="val_loss")] == [ONE, TWO]
    assert [view["name"] for view in stocked.adapters.list(sort="date:desc")] == [ONE, TWO]
    for where in ("val_loss < 0.2", "date >= 2026-03-01", "tag.team = ads", "dataset = x"):
        assert [view["name"] for view in stocked.adapters.list(where=where)] == [ONE], where
    assert stocked.adapters.list(where="val_loss = 0.61") == []
    assert stocked.adapters.history("course_rec")[1]["val_loss_change"] == pytest.approx(0.32)
    assert stocked.adapters.compare([ONE, TWO])["differs"]["val_loss"] == [0.1, 0.42]


def test_what_was_believed_then(stocked: Registry) -> None:
    first = stocked.adapters.show(ONE)
    moments = []
    for loss in (0.5, 0.4, 0.3):
        stocked.adapters.amend(ONE, val_loss=loss, tags={"n": str(loss)}, reason="again")
        moments.append((stocked.upkeep.log()[-1]["at"], loss))
    for at, loss in moments:
        then = stocked.adapters.show(ONE, at=at)
        assert (then["val_loss"], then["tags"], then["at"]) == (loss, {"n": str(loss)}, at)
        assert then["amendments"][-1]["to"] in (loss, str(loss))
    before = stocked.adapters.show(ONE, at=stocked.upkeep.log(reference=ONE)[0]["at"])
    assert (before["val_loss"], before["tags"], before["amendments"]) == (0.61, {}, [])
    assert {key: before[key] for key in before if key in first and key != "aliases"} == {
        key: first[key] for key in first if key in before and key != "aliases"
    }


def test_aliases_and_withdrawals_are_those_of_then(stocked: Registry) -> None:
    def now() -> str:
        return str(stocked.upkeep.log()[-1]["at"])

    stocked.aliases.set("prod", ONE)
    held = now()
    stocked.adapters.yank(ONE, reason="wrong licence")
    yanked = now()
    stocked.adapters.unyank(ONE)
    stocked.aliases.set("prod", TWO)
    assert stocked.adapters.show(ONE, at=held)["aliases"] == ["prod"]
    assert not stocked.adapters.show(ONE, at=held)["yanked"]
    assert stocked.adapters.show(ONE, at=yanked)["yanked_reason"] == "wrong licence"
    last = stocked.adapters.show(ONE, at=now())
    assert (last["aliases"], last["yanked"]) == ([], False)
    assert stocked.adapters.show("course_rec#prod", at=held)["name"] == ONE
    assert stocked.adapters.show("course_rec#prod", at=now())["name"] == TWO
    registered = stocked.upkeep.log(reference=ONE)[0]["at"]
    assert stocked.adapters.show("course_rec@latest", at=registered)["name"] == ONE
    for reference in (ONE, "course_rec@latest", "course_rec#prod", "course_rec#none"):
        with pytest.raises(UnknownReferenceError):
            stocked.adapters.show(reference, at="2020-01-01")
    with pytest.raises(BadInputError):
        stocked.adapters.show(ONE, at="then")


@pytest.mark.timing
def test_concurrent_amendments_land_in_order(stocked: Registry) -> None:
    losses = [round(0.1 + number / 100, 2) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda loss: stocked.adapters.amend(ONE, val_loss=loss, reason="race"), losses))
    told = changes(stocked.adapters.show(ONE))
    assert sorted(after for _, _, after in told) == losses
    assert [before for _, before, _ in told] == [0.61, *(after for _, _, after in told[:-1])]
    assert stocked.adapters.show(ONE)["val_loss"] == told[-1][2]
    assert stocked.upkeep.audit().ok


def test_registering_again_says_how_to_correct_it(stocked: Registry, tmp_path: Path) -> None:
    again = {"base": "tiny", "task": "course_rec"}
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.adapters.register(tmp_path / "first", **again, val_loss=0.061, tags={"team": "the ads"})
    hint = f"fusery edit {ONE} --val-loss 0.061 --tag 'team=the ads' --reason TEXT"
    assert shlex.split(str(caught.value.hint)) == shlex.split(hint)
    stocked.adapters.amend(ONE, val_loss=0.061, tags={"team": "the ads"}, reason="typo")
    done = stocked.adapters.register(tmp_path / "first", **again, val_loss=0.061, tags={"team": "the ads"})
    assert (done.created, done["name"]) == (False, ONE)
    # A pipeline that says once more what it said at first says nothing new.
    assert not stocked.adapters.register(tmp_path / "first", **again, date="20260115", val_loss=0.61).created


def test_what_cannot_be_amended_is_registered_anew_once_it_is_withdrawn(
    stocked: Registry, tmp_path: Path
) -> None:
    again: dict[str, Any] = {"base": "tiny", "task": "course_rec", "alpha": 99.0}
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.adapters.register(tmp_path / "first", **again)
    assert f"fusery yank {ONE}" in str(caught.value.hint)
    stocked.adapters.yank(ONE, reason="wrong alpha")
    same = stocked.adapters.register(tmp_path / "first", base="tiny", task="course_rec")
    assert (same.created, same["yanked"]) == (False, True)
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.adapters.register(tmp_path / "first", base="tiny", task="course_rec", val_loss=0.2)
    assert str(caught.value.hint).endswith(f"fusery yank {ONE} --undo")
    new = stocked.adapters.register(tmp_path / "first", **again)
    assert (new.created, new["version"], new["alpha"], new["yanked"]) == (True, 3, 99.0, False)
    assert stocked.adapters.show(ONE)["yanked"]
    assert not stocked.adapters.register(tmp_path / "first", **again).created
    assert stocked.upkeep.audit().ok


def test_exports_and_bundles_name_the_amendment_and_nobody(stocked: Registry, tmp_path: Path) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, date="20260114", reason="typo")
    folder = stocked.exchange.export(ONE, tmp_path / "out").path
    document = json.loads((folder / "adapter_metadata.json").read_text())
    assert (document["final_val_loss"], document["training_date"]) == (0.061, "2026-01-14")
    assert [each["from"] for each in document["fusery"]["facts"]["amendments"]] == [0.61, "20260115"]
    assert "Amended since it was registered" in (folder / "README.md").read_text()
    stocked.bundles.materialize(ONE, tmp_path / "model")
    stocked.bundles.materialize(ONE, tmp_path / "adapters", target="vllm")
    told = json.loads((tmp_path / "model" / "fusery.json").read_text())["provenance"]["adapter"]
    assert told["val_loss"] == 0.061
    expected = {"field": "val_loss", "from": 0.61, "to": 0.061, "reason": "typo"}
    assert {key: told["amendments"][0][key] for key in expected} == expected
    assert all("by" not in each for each in told["amendments"])
    assert "| adapter, amended | val_loss: 0.61 -&gt; 0.061" in (tmp_path / "model" / "README.md").read_text()
    packed = json.loads((tmp_path / "adapters" / "fusery.json").read_text())["adapters"][0]["facts"]
    assert packed["amendments"] == told["amendments"]


def test_documents_for_auditors_say_so(stocked: Registry, tmp_path: Path) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, clear=["examples"], reason="<typo>")
    text = saved(stocked, ONE).decode()
    assert "&lt;typo&gt;" in text and "<typo>" not in text
    attested = json.dumps(stocked.provenance.attest(ONE).document)
    assert '"amended": [{"field": "val_loss", "from": 0.61, "to": 0.061' in attested
