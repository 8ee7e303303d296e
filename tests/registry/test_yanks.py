"""Withdrawing an adapter, and taking that back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError


def test_what_was_made_with_it_is_listed(stocked: Registry, tmp_path: Path) -> None:
    stocked.set_alias("course_rec@2", "prod")
    bundle = stocked.materialize("course_rec@2", tmp_path / "out")
    key = stocked.fuse("course_rec@2").view["key"]
    found = stocked.yank("course_rec@2", reason="wrong licence")
    assert (found["name"], found["changed"], found["aliases"]) == (
        "course_rec_v2_20260201",
        True,
        ["course_rec#prod"],
    )
    assert found["fused"] == [key]
    assert [entry["digest"] for entry in found["bundles"]] == [bundle.manifest.digest]


def test_it_is_neither_fused_nor_shipped(stocked: Registry, tmp_path: Path) -> None:
    stocked.fuse("course_rec@1")
    stocked.yank("course_rec@1", reason="wrong licence")
    for use in (
        lambda: stocked.fuse("course_rec@1"),
        lambda: stocked.materialize("course_rec@1", tmp_path / "out"),
    ):
        with pytest.raises(BadInputError, match=r"yanked by tester on .*: wrong licence"):
            use()
    assert not (tmp_path / "out").exists()
    assert stocked.show("course_rec@1")["yanked"]
    assert stocked.audit().ok


def test_a_second_time_changes_nothing(stocked: Registry) -> None:
    stocked.yank("course_rec@1", reason="wrong licence")
    again = stocked.yank("course_rec@1", reason="another reason")
    assert (again["changed"], again["reason"]) == (False, "wrong licence")
    assert [event["action"] for event in stocked.events(reference="course_rec@1")][-1] == "adapter.yanked"


def test_taken_back(stocked: Registry) -> None:
    stocked.yank("course_rec@1", reason="wrong licence")
    assert stocked.unyank("course_rec@1", reason="cleared")["changed"]
    assert not stocked.unyank("course_rec@1")["changed"]
    assert not stocked.show("course_rec@1")["yanked"]
    assert stocked.fuse("course_rec@1").view["fidelity"]["verdict"] == "PASS"
    told = stocked.events(reference="course_rec@1")
    assert [event["action"] for event in told] == ["adapter.registered", "adapter.yanked", "adapter.unyanked"]
    assert told[-1]["detail"]["reason"] == "cleared"


def test_a_reason_is_needed(stocked: Registry) -> None:
    with pytest.raises(BadInputError, match="reason"):
        stocked.yank("course_rec@1", reason=" ")
    with pytest.raises(UnknownReferenceError):
        stocked.yank("course_rec@9", reason="x")
