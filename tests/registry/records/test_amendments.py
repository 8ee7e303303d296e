"""Amendments: what they change, what was before them, and which do not fit together."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fusery.registry import Registry, tables
from fusery.registry.records.amendments import (
    changes,
    is_amendable,
    is_free,
    misfits,
    put,
    state_of,
    state_then,
    text_of,
    undone,
)
from fusery.registry.records.references import resolve_adapter

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
def test_a_state_at_a_moment(stocked: Registry) -> None:
    losses = []
    for loss in (0.3, 0.2):
        stocked.adapters.amend("course_rec@2", val_loss=loss, reason="measured")
    with stocked.workspace.database.read() as session:
        adapter = resolve_adapter(session, "course_rec@2")
        since = [row.since for row in adapter.amendments]
        for moment in (since[0] - timedelta(days=1), *since):
            losses.append(state_then(adapter, moment)["val_loss"])
    assert losses == [0.42, 0.3, 0.2]


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
