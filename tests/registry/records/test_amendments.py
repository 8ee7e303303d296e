"""Amendments: what they change, what was before them, and which do not fit together."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.records.alias_moves import alias_row, judged_against, move, move_facts, overtaken
from fusery.registry.records.amendments import (
    changes,
    is_amendable,
    is_free,
    misfits,
    put,
    state_of,
    text_of,
    undone,
)
from fusery.registry.records.references import resolve_adapter
from fusery.registry.records.release import AliasMove

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def amendment(field: str, before: object, after: object) -> tables.AmendmentRow:
    return tables.AmendmentRow(field=field, before=text_of(before), after=text_of(after), reason="")


def test_which_fields_may_be_amended() -> None:
    amendable = {"val_loss": True, "tag.team": True, "rank": False, "team": False}
    assert {field: is_amendable(field) for field in amendable} == amendable
    assert [is_free(field) for field in ("note", "tag.team", "val_loss")] == [True, True, False]


def test_states_before_and_after() -> None:
    rows = [amendment("val_loss", 0.5, 0.4), amendment("val_loss", 0.4, 0.3), amendment("tag.a", None, "x")]
    now = {"val_loss": 0.3, "note": None, "tag.a": "x"}
    assert undone(now, rows) == {"val_loss": 0.5, "note": None}
    assert undone(now, rows[1:2]) == {**now, "val_loss": 0.4}
    assert changes(undone(now, rows), now) == [("val_loss", 0.5, 0.3), ("tag.a", None, "x")]


def test_amendments_that_do_not_fit_are_told() -> None:
    rows = [amendment("val_loss", 0.5, 0.4), amendment("val_loss", 0.4, 0.3)]
    assert misfits({"val_loss": 0.3}, rows) == []
    unreadable = tables.AmendmentRow(field="note", before="{", after="{")
    for state, wrong in (
        ({"val_loss": 0.2}, rows),
        ({"val_loss": 0.3}, [rows[0], amendment("val_loss", 0.5, 0.3)]),
        ({"val_loss": 0.3}, [*rows, amendment("rank", 1, 2)]),
        ({"val_loss": 0.3}, [*rows, unreadable]),
    ):
        assert len(misfits(state, wrong)) == 1


@SQLITE
def test_values_are_put_into_a_row(stocked: Registry) -> None:
    with stocked.workspace.database.write() as session:
        adapter = resolve_adapter(session, "course_rec@2")
        before = state_of(adapter)
        assert before["dataset"] == "courses" and before["tag.team"] == "search"
        put(session, adapter, {"val_loss": 0.1, "tag.team": None, "tag.run": "7"})
        put(session, adapter, {"tag.run": "8", "tag.none": None})
        assert changes(before, state_of(adapter)) == [
            ("val_loss", 0.42, 0.1), ("tag.team", "search", None), ("tag.run", None, "8"),
        ]  # fmt: skip
        assert adapter.dataset_id is not None
        put(session, adapter, {"dataset_revision": "v2"})
        assert (state_of(adapter)["dataset"], state_of(adapter)["dataset_revision"]) == ("courses", "v2")
        put(session, adapter, {"dataset": None})
        assert adapter.dataset is None and adapter.dataset_id is None


ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def moved(registry: Registry, version: int | None, reason: str = "") -> bool:
    """Move prod as no rule says, and check what is on record of it."""
    with registry.workspace.database.write() as session:
        holder = resolve_adapter(session, f"course_rec@{version}") if version else None
        alias = alias_row(session, resolve_adapter(session, "course_rec@1"), "prod")
        before = session.get(tables.AdapterRow, alias.adapter_id) if alias.adapter_id else None
        made = move(registry.workspace, session, alias, holder, reason)
        assert (made.from_, made.to) == (before and before.name, holder and holder.name)
        assert alias.adapter_id == (holder.id if holder else None)
        return made.moved


@SQLITE
def test_a_move_is_on_record_once(stocked: Registry) -> None:
    assert [moved(stocked, version) for version in (1, 1, 2, None, None)] == [True, False, True, True, False]
    with stocked.workspace.database.read() as session:
        rows = session.scalars(select(tables.AliasMoveRow).order_by(tables.AliasMoveRow.id)).all()
        alias = session.scalars(select(tables.AliasRow)).one()
        names = {row.id: row.name for row in session.scalars(select(tables.AdapterRow))}
        records = [AliasMove(**move_facts(alias, row, names)) for row in rows]
    assert [(each.from_, each.to) for each in records] == [(None, ONE), (ONE, TWO), (TWO, None)]
    told = [event.detail for event in stocked.upkeep.log(action="alias.moved")]
    stated = [[side and side["name"] for side in (each["from"], each["to"])] for each in told]
    assert stated == [[None, ONE], [ONE, TWO], [TWO, None]]
    assert stocked.upkeep.audit().ok


@pytest.mark.parametrize("alias", ["prod", "course_rec#prod"])
@SQLITE
def test_a_promotion_is_overtaken_by_an_amendment(stocked: Registry, alias: str) -> None:
    def found() -> list[str]:
        with stocked.workspace.database.read() as session:
            return overtaken(session, session.scalars(select(tables.AliasRow)).one())

    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set_rules("prod", {"approvals": 1})
    stocked.aliases.set_rules(alias, {"val_loss_within": 0.0}, guarded=False)
    stocked.aliases.promote("course_rec@2", "prod")
    with stocked.workspace.database.read() as session:
        row = session.scalars(select(tables.AliasRow)).one()
        against = judged_against(session, row)
        assert against is not None and against.name == ONE
    assert found() == []
    stocked.adapters.amend("course_rec@2", note="no rule judges by it")
    assert found() == []
    stocked.adapters.amend("course_rec@1", val_loss=0.1, reason="typo")
    stocked.adapters.amend("course_rec@2", val_loss=0.9, reason="typo")
    assert [message.partition(" was amended ")[0] for message in found()] == [
        f"val_loss of {name}" for name in (TWO, ONE)
    ]
    assert all("val_loss_within had judged" in message for message in found())
    stocked.aliases.remove_rules(alias)
    assert len(found()) == 2, "what the rules were then"
