"""What was said about an adapter, corrected: who may say what, what every view shows, and what was believed before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
MakeAdapter = Callable[..., Path]


def actions(registry: Registry) -> list[str]:
    return [event["action"] for event in registry.upkeep.log()]


def changes(view: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(each["field"], each["from"], each["to"]) for each in view["amendments"]]


def test_a_typo_is_corrected_and_the_log_says_so(stocked: Registry) -> None:
    done = stocked.adapters.amend("course_rec@1", val_loss=0.061, reason="typo")
    shown = stocked.adapters.show(ONE)
    assert (done.name, shown["val_loss"]) == (ONE, 0.061)
    [told] = shown["amendments"]
    assert told == done.amendments[0].to_dict()
    assert {key: told[key] for key in ("field", "from", "to", "reason", "by")} == {
        "field": "val_loss",
        "from": 0.61,
        "to": 0.061,
        "reason": "typo",
        "by": "tester",
    }
    event = stocked.upkeep.log()[-1]
    assert (event["action"], event["subject"], event["actor"]) == ("adapter.amended", ONE, "tester")
    assert event["detail"]["changes"] == [{"field": "val_loss", "from": 0.61, "to": 0.061}]
    assert {record["kind"] for record in event["records"]} == {"adapter", "amendment"}
    assert stocked.upkeep.audit().ok


def test_what_it_is_stays_what_it_is(stocked: Registry) -> None:
    before = stocked.adapters.show(ONE)
    stocked.adapters.amend(
        ONE,
        val_loss=0.1,
        note="looked at again",
        dataset="courses-2026",
        dataset_revision="v2",
        dataset_digest="AB" * 32,
        examples=121,
        date="2026-01-14",
        tags={"Team": "search", "run": "7"},
        reason="the run's sheet",
    )
    after = stocked.adapters.show(ONE)
    said = {
        "val_loss": 0.1,
        "note": "looked at again",
        "dataset": "courses-2026",
        "dataset_revision": "v2",
        "dataset_digest": "ab" * 32,
        "examples": 121,
        "date": "20260114",
        "tags": {"run": "7", "team": "search"},
    }
    assert {field: after[field] for field in said} == said
    assert {key for key in before if before[key] != after[key]} == {*said, "amendments"}
    assert after["name"] == ONE
    assert stocked.upkeep.audit().ok


def test_fields_are_cleared(stocked: Registry) -> None:
    stocked.adapters.amend(
        TWO, clear=["val_loss", "dataset", "tag.team"], reason="measured on the wrong split"
    )
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


def test_what_is_on_record_already_is_no_change(stocked: Registry) -> None:
    before = actions(stocked)
    done = stocked.adapters.amend(ONE, val_loss=0.61, dataset="courses", tags={}, clear=["note"])
    assert (done.amendments, done.to_dict()["changed"]) == ((), False)
    assert actions(stocked) == before
    assert stocked.adapters.show(ONE)["amendments"] == []


@pytest.mark.parametrize(
    "facts",
    [{"val_loss": 0.1}, {"dataset": "other"}, {"examples": 1}, {"date": "20260114"}, {"clear": ["examples"]}],
)
def test_another_fact_needs_a_reason(stocked: Registry, facts: dict[str, Any]) -> None:
    before = stocked.adapters.show(ONE)
    with pytest.raises(BadInputError, match="needs a reason"):
        stocked.adapters.amend(ONE, **facts)
    with pytest.raises(BadInputError, match="needs a reason"):
        stocked.adapters.amend(ONE, note="so", reason="  ", **facts)
    assert stocked.adapters.show(ONE) == before


def test_tags_and_notes_need_none(stocked: Registry) -> None:
    stocked.adapters.amend(ONE, note="first try", tags={"team": "search"})
    assert changes(stocked.adapters.show(ONE)) == [("note", None, "first try"), ("tag.team", None, "search")]


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "not said what to amend"),
    ({"val_loss": float("nan")}, "not a finite number"),
    ({"val_loss": float("inf")}, "not a finite number"),
    ({"val_loss": "0.3"}, "not a finite number"),
    ({"val_loss": True}, "not a finite number"),
    ({"val_loss": -0.1}, "0 or more"),
    ({"date": "29990101"}, "in the future"),
    ({"examples": -1}, "not a whole number"),
    ({"examples": 2**31}, "not a whole number"),
    ({"examples": 1.5}, "not a whole number"),
    ({"date": "yesterday"}, "not a date"),
    ({"date": ""}, "not a date"),
    ({"note": "a\x00b"}, "not plain text"),
    ({"note": "a" * 10_001}, "10,001 characters"),
    ({"note": ""}, "is empty"),
    ({"dataset": ""}, "is empty"),
    ({"dataset": "\ud800"}, "not plain text"),
    ({"dataset_digest": "abc"}, "not one"),
    ({"dataset_revision": "r" * 201}, "201 characters"),
    ({"tags": {"no spaces": "x"}}, "not a tag name"),
    ({"tags": {"a": "1", "A": "2"}}, "given twice"),
    ({"clear": ["tag.no spaces"]}, "not a tag name"),
    ({"clear": ["date"]}, "cannot be cleared"),
    ({"clear": ["colour"]}, "cannot be cleared"),
    ({"clear": ["rank"]}, "never amended"),
    ({"clear": ["base"]}, "never amended"),
    ({"clear": ["note"], "note": "x"}, "both given and cleared"),
    ({"note": "x", "reason": "a\x00b"}, "not plain text"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "why"), BAD, ids=[repr(said)[:40] for said, _ in BAD])
def test_what_register_refuses_is_refused(stocked: Registry, said: dict[str, Any], why: str) -> None:
    before, log = stocked.adapters.show(ONE), actions(stocked)
    with pytest.raises(BadInputError, match=why):
        stocked.adapters.amend(ONE, **{"reason": "typo", **said})
    assert (stocked.adapters.show(ONE), actions(stocked)) == (before, log)


def test_a_revision_of_no_dataset_is_refused(stocked: Registry) -> None:
    stocked.adapters.amend(ONE, clear=["dataset"], reason="none")
    with pytest.raises(BadInputError, match="no dataset"):
        stocked.adapters.amend(ONE, dataset_revision="v2", reason="forgotten")


def test_an_adapter_that_is_not_there(stocked: Registry) -> None:
    with pytest.raises(UnknownReferenceError):
        stocked.adapters.amend("course_rec@9", note="x")


def test_a_dataset_that_others_have_stays_theirs(stocked: Registry) -> None:
    stocked.adapters.amend(ONE, dataset="catalogue", reason="typo")
    assert [view["dataset"] for view in stocked.adapters.list(sort="version")] == ["catalogue", "courses"]
    stocked.adapters.amend(TWO, dataset="catalogue", reason="typo")
    with stocked.workspace.database.read() as session:
        assert sorted(session.scalars(select(tables.Dataset.name))) == ["catalogue", "courses"]


def test_lists_filter_and_sort_by_what_is_right(stocked: Registry) -> None:
    stocked.adapters.amend(
        ONE, val_loss=0.1, examples=7, date="20260301", tags={"team": "ads"}, dataset="x", reason="r"
    )
    assert [view["name"] for view in stocked.adapters.list(sort="val_loss")] == [ONE, TWO]
    assert [view["name"] for view in stocked.adapters.list(sort="date:desc")] == [ONE, TWO]
    for where in ("val_loss < 0.2", "examples = 7", "date >= 2026-03-01", "tag.team = ads", "dataset = x"):
        assert [view["name"] for view in stocked.adapters.list(where=where)] == [ONE], where
    assert [view["name"] for view in stocked.adapters.list(tags={"team": "ads"})] == [ONE]
    assert stocked.adapters.list(where="val_loss = 0.61") == []
    assert stocked.adapters.history("course_rec")[1]["val_loss_change"] == pytest.approx(0.32)
    assert stocked.adapters.compare([ONE, TWO])["differs"]["val_loss"] == [0.1, 0.42]
    assert stocked.adapters.diff(ONE, TWO)["changed"]["dataset"] == ["x", "courses"]


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
    assert (
        stocked.adapters.show(ONE, at=held)["yanked"],
        stocked.adapters.show(ONE, at=yanked)["yanked_reason"],
    ) == (
        False,
        "wrong licence",
    )
    assert (
        stocked.adapters.show(ONE, at=now())["aliases"],
        stocked.adapters.show(ONE, at=now())["yanked"],
    ) == ([], False)
    assert stocked.adapters.show("course_rec#prod", at=held)["name"] == ONE
    assert stocked.adapters.show("course_rec#prod", at=now())["name"] == TWO
    registered = stocked.upkeep.log(reference=ONE)[0]["at"]
    assert stocked.adapters.show("course_rec@latest", at=registered)["name"] == ONE


def test_before_it_was_there(stocked: Registry) -> None:
    for reference in (ONE, "course_rec@latest", "course_rec#prod"):
        with pytest.raises(UnknownReferenceError):
            stocked.adapters.show(reference, at="2020-01-01")
    stocked.aliases.set("prod", ONE)
    with pytest.raises(UnknownReferenceError, match="named nothing"):
        stocked.adapters.show("course_rec#prod", at="2020-01-01")
    with pytest.raises(BadInputError):
        stocked.adapters.show(ONE, at="then")


def test_two_at_once_land_in_order(stocked: Registry) -> None:
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
    with pytest.raises(
        AlreadyExistsError, match=f"registered as {ONE}, with val_loss 0.61 and not 0.061"
    ) as caught:
        stocked.adapters.register(tmp_path / "first", **again, val_loss=0.061, tags={"team": "the ads"})
    words = shlex.split(str(caught.value.hint))
    assert words == [
        "fusery",
        "amend",
        ONE,
        "--val-loss",
        "0.061",
        "--tag",
        "team=the ads",
        "--reason",
        "TEXT",
    ]
    stocked.adapters.amend(ONE, val_loss=0.061, tags={"team": "the ads"}, reason="typo")
    done = stocked.adapters.register(tmp_path / "first", **again, val_loss=0.061, tags={"team": "the ads"})
    assert (done.created, done["name"]) == (False, ONE)
    # A pipeline that says once more what it said at first says nothing new.
    assert not stocked.adapters.register(tmp_path / "first", **again, date="20260115", val_loss=0.61).created


def test_what_cannot_be_amended_is_registered_anew_once_it_is_withdrawn(
    stocked: Registry, tmp_path: Path
) -> None:
    again: dict[str, Any] = {"base": "tiny", "task": "course_rec", "alpha": 99.0}
    with pytest.raises(AlreadyExistsError, match="alpha is never amended") as caught:
        stocked.adapters.register(tmp_path / "first", **again)
    assert f"fusery yank {ONE}" in str(caught.value.hint)
    stocked.adapters.yank(ONE, reason="wrong alpha")
    same = stocked.adapters.register(tmp_path / "first", base="tiny", task="course_rec")
    assert (same.created, same["yanked"]) == (False, True)
    with pytest.raises(AlreadyExistsError, match=r"yanked \(wrong alpha\), with val_loss") as caught:
        stocked.adapters.register(tmp_path / "first", base="tiny", task="course_rec", val_loss=0.2)
    assert str(caught.value.hint).endswith(f"fusery yank {ONE} --undo")
    new = stocked.adapters.register(tmp_path / "first", **again)
    assert (new.created, new["version"], new["alpha"], new["yanked"]) == (True, 3, 99.0, False)
    assert stocked.adapters.show(ONE)["yanked"]
    assert not stocked.adapters.register(tmp_path / "first", **again).created
    assert stocked.upkeep.audit().ok


def test_the_document_of_an_exported_folder_says_so(stocked: Registry, tmp_path: Path) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, date="20260114", reason="typo")
    folder = stocked.exchange.export(ONE, tmp_path / "out").path
    document = json.loads((folder / "adapter_metadata.json").read_text())
    assert document["final_val_loss"] == 0.061
    assert document["training_date"] == "2026-01-14"
    assert [each["from"] for each in document["fusery"]["facts"]["amendments"]] == [0.61, "20260115"]
    assert "Amended since it was registered" in (folder / "README.md").read_text()


def test_whatever_leaves_the_registry_says_so_and_names_nobody(stocked: Registry, tmp_path: Path) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, reason="typo")
    stocked.bundles.materialize(ONE, tmp_path / "model")
    stocked.bundles.materialize(ONE, tmp_path / "adapters", target="vllm")
    record = json.loads((tmp_path / "model" / "fusery.json").read_text())
    told = record["provenance"]["adapter"]
    assert told["val_loss"] == 0.061
    [each] = told["amendments"]
    assert {key: each[key] for key in ("field", "from", "to", "reason")} == {
        "field": "val_loss",
        "from": 0.61,
        "to": 0.061,
        "reason": "typo",
    }
    assert "by" not in each
    assert (
        "| adapter, amended | val_loss: 0.61 -&gt; 0.061 |" in (tmp_path / "model" / "README.md").read_text()
    )
    packed = json.loads((tmp_path / "adapters" / "fusery.json").read_text())["adapters"][0]["facts"]
    assert packed["amendments"] == [each]


def test_documents_for_auditors_say_so(stocked: Registry, tmp_path: Path) -> None:
    from fusery.registry.provenance.prov import prov

    stocked.adapters.amend(ONE, val_loss=0.061, clear=["examples"], reason="<typo>")
    page = stocked.provenance.report("course_rec", html=tmp_path / "report.html")
    [told] = [section["amendments"] for section in page["tasks"]]
    assert [(each["adapter"], each["field"]) for each in told] == [(ONE, "val_loss"), (ONE, "examples")]
    text = (tmp_path / "report.html").read_text()
    assert "Amendments" in text
    assert "&lt;typo&gt;" in text
    assert "<typo>" not in text
    document = json.dumps(prov(stocked.provenance.lineage(ONE, inputs=True)))
    assert '"fusery:amended": "examples, val_loss"' in document
    attested = json.dumps(stocked.provenance.attest(ONE).document)
    assert '"amended": [{"field": "val_loss", "from": 0.61, "to": 0.061' in attested
