"""Any sequence of amendments against a model: what is on record now and was at any moment."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusery.cli.amend import amend_command
from fusery.registry import Registry
from fusery.registry.audit.amended import check_amendments
from fusery.registry.audit.records import check_records
from fusery.registry.errors import BadInputError
from fusery.registry.records.amendments import DATASET, FIELDS
from fusery.registry.registration.correction import Correction

ONE = "course_rec_v1_20260115"
_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
_KEYS = st.sampled_from(["team", "run", "license"])
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "val_loss": st.floats(min_value=0, allow_infinity=False).map(lambda value: value + 0.0),
    "note": _WORDS,
    "dataset": _WORDS,
    "dataset_revision": _WORDS,
    "dataset_digest": st.sampled_from(["ab" * 32, "cd" * 32]),
    "examples": st.integers(0, 2**31 - 1),
    "date": st.dates(max_value=dt.date(2026, 1, 1)).map(lambda day: day.isoformat().replace("-", "")),
    "tags": st.dictionaries(_KEYS, _WORDS, max_size=3),
}
_SAID = st.fixed_dictionaries({}, optional=_VALUES)
_CLEARED = st.sets(
    st.sampled_from(["val_loss", "note", *DATASET, "examples", "tag.team", "tag.run"]), max_size=3
)


def test_every_field_that_may_be_amended_is_tried_here_and_is_an_option() -> None:
    fields = {*FIELDS, "tags"}
    assert _VALUES.keys() == fields
    assert {field.name for field in dataclasses.fields(Correction)} == fields | {"clear", "reason"}
    options = {option.name for option in amend_command.params}
    assert options >= fields | {"clear", "reason"}


def said_of(view: dict[str, Any]) -> dict[str, Any]:
    return {**{field: view[field] for field in FIELDS}, "tags": view["tags"]}


def model_of(state: dict[str, Any], said: dict[str, Any], clear: set[str]) -> dict[str, Any] | None:
    """Return what a correction should make of a state, None where it has to be refused."""
    after = {**state, "tags": dict(state["tags"])}
    for field in clear:
        if field.startswith("tag."):
            after["tags"].pop(field.removeprefix("tag."), None)
        else:
            after[field] = None
    if "dataset" in clear:
        after.update(dict.fromkeys(DATASET))
    after.update({field: value for field, value in said.items() if field != "tags"})
    after["tags"].update(said.get("tags", {}))
    return None if after["dataset"] is None and any(after[field] for field in DATASET) else after


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(_SAID, _CLEARED), min_size=1, max_size=5))
def test_any_amendments(stocked: Registry, steps: list[tuple[dict[str, Any], set[str]]]) -> None:
    state = said_of(stocked.adapters.show(ONE))
    moments = [(stocked.upkeep.log(limit=1)[0]["at"], state)]
    for said, chosen in steps:
        clear = {
            field
            for field in chosen
            if field not in said and field.removeprefix("tag.") not in said.get("tags", {})
        }
        if {field.removeprefix("tag.") for field in clear if field.startswith("tag.")} - state["tags"].keys():
            with pytest.raises(BadInputError):
                stocked.adapters.amend(ONE, **said, clear=clear, reason="because")
            continue
        after = model_of(state, said, clear)
        if after is None or not (said.keys() - {"tags"} or said.get("tags") or clear):
            continue
        done = stocked.adapters.amend(ONE, **said, clear=clear, reason="because")
        assert bool(done.amendments) == (after != state)
        state = after
        assert said_of(stocked.adapters.show(ONE)) == state
        moments.append((stocked.upkeep.log(limit=1)[0]["at"], state))
    last = dict(moments)
    for at, expected in last.items():
        assert said_of(stocked.adapters.show(ONE, at=at)) == expected, at
    with stocked.workspace.database.read() as session:
        assert [*check_records(session), *check_amendments(session)] == []
