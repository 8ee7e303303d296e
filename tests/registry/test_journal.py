"""The log as people ask for it."""

from __future__ import annotations

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError


def test_all_of_it_in_order(stocked: Registry) -> None:
    told = stocked.events()
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert [event["action"] for event in told] == [
        "registry.made",
        "base.added",
        "adapter.registered",
        "adapter.registered",
    ]
    assert {event["actor"] for event in told} == {"tester"}
    assert told[-1]["detail"]["val_loss"] == 0.42


@pytest.mark.parametrize(
    ("reference", "kind"),
    [("course_rec@1", "adapter"), ("tiny", "base"), ("course_rec_v2_20260201", "adapter")],
)
def test_about_one_thing(reference: str, kind: str, stocked: Registry) -> None:
    (event,) = stocked.events(reference=reference)
    assert event["kind"] == kind


def test_about_a_fused_model(stocked: Registry) -> None:
    key = stocked.fuse("course_rec@1").view["key"]
    assert [event["action"] for event in stocked.events(reference=key[:12])] == ["fused.made"]


def test_filters(stocked: Registry) -> None:
    assert len(stocked.events(action="adapter.registered")) == 2
    assert [event["seq"] for event in stocked.events(limit=1)] == [4]
    assert stocked.events(since="2100-01-01") == []
    assert len(stocked.events(since="2020-01-01T00:00+02:00")) == 4


def test_what_there_is_not(stocked: Registry) -> None:
    with pytest.raises(UnknownReferenceError):
        stocked.events(reference="nothing@1")
    with pytest.raises(BadInputError, match="date"):
        stocked.events(since="yesterday")
