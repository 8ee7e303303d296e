"""Moves of aliases: their history, the rules that guard them, and amendments that overtake a promotion."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.records.alias_moves import alias_row, move, move_record
from fusery.registry.records.overtaken import judged_against, overtaken
from fusery.registry.records.references import resolve_adapter

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def moved(registry: Registry, version: int | None, reason: str = "") -> bool:
    """Move prod as no rule says, and check what is on record of it."""
    with registry.workspace.database.write() as session:
        holder = resolve_adapter(session, f"course_rec@{version}") if version else None
        alias = alias_row(session, resolve_adapter(session, "course_rec@1"), "prod")
        before = session.get(tables.Adapter, alias.adapter_id) if alias.adapter_id else None
        made = move(registry.workspace, session, alias, holder, reason)
        assert (made.from_, made.to) == (before and before.name, holder and holder.name)
        assert alias.adapter_id == (holder.id if holder else None)
        return made.moved


def test_a_move_is_on_record_once(stocked: Registry) -> None:
    assert [moved(stocked, version) for version in (1, 1, 2, None, None)] == [
        True,
        False,
        True,
        False,
        False,
    ][:3] + [True, False]
    with stocked.workspace.database.read() as session:
        rows = session.scalars(select(tables.AliasMove).order_by(tables.AliasMove.id)).all()
        alias = session.scalars(select(tables.Alias)).one()
        names = {row.id: row.name for row in session.scalars(select(tables.Adapter))}
        records = [move_record(alias, row, names) for row in rows]
    assert [(each.from_, each.to) for each in records] == [(None, ONE), (ONE, TWO), (TWO, None)]
    told = [event.detail for event in stocked.upkeep.log(action="alias.moved")]
    stated = [[side and side["name"] for side in (each["from"], each["to"])] for each in told]
    assert stated == [[None, ONE], [ONE, TWO], [TWO, None]]
    assert stocked.upkeep.audit().ok


@pytest.mark.parametrize("alias", ["prod", "course_rec#prod"])
def test_a_promotion_is_overtaken_by_an_amendment(stocked: Registry, alias: str) -> None:
    def found() -> list[tuple[str, str, str]]:
        with stocked.workspace.database.read() as session:
            row = session.scalars(select(tables.Alias)).one()
            return [(each.rule, each.adapter, each.amendment.field) for each in overtaken(session, row)]

    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set_rules("prod", {"approvals": 1})
    stocked.aliases.set_rules(alias, {"val_loss_within": 0.0}, guarded=False)
    stocked.aliases.promote("course_rec@2", "prod")
    with stocked.workspace.database.read() as session:
        row = session.scalars(select(tables.Alias)).one()
        against = judged_against(session, row)
        assert against is not None and against.name == ONE
    assert found() == []
    stocked.adapters.amend("course_rec@2", note="no rule judges by it")
    assert found() == []
    stocked.adapters.amend("course_rec@1", val_loss=0.1, reason="typo")
    stocked.adapters.amend("course_rec@2", val_loss=0.9, reason="typo")
    assert found() == [("val_loss_within", name, "val_loss") for name in (TWO, ONE)]
    stocked.aliases.remove_rules(alias)
    assert len(found()) == 2, "what the rules were then"
