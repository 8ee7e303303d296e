"""Limits on the records about one adapter."""

from __future__ import annotations

import pytest
from database_facts import add_rows

from fusery.registry import Registry
from fusery.registry.comparison import measured
from fusery.registry.errors import BadInputError
from fusery.registry.records import REMARKS, YANKS, require_within

ONE = "course_rec_v1_20260115"


def test_yanks_are_limited(stocked: Registry) -> None:
    add_rows(stocked, "Yank", YANKS - 1, reason="bad data", lifted_by="tester")
    assert stocked.adapters.yank(ONE, reason="bad data").changed
    assert not stocked.adapters.yank(ONE, reason="bad data").changed
    stocked.adapters.unyank(ONE)
    with pytest.raises(BadInputError) as caught:
        stocked.adapters.yank(ONE, reason="again")
    assert f"at most {YANKS}" in caught.value.message
    assert not stocked.adapters.show(ONE).yanked


@pytest.mark.parametrize("text", ["x" * 10_001, " "])
def test_a_reason_of_a_yank_is_limited(stocked: Registry, text: str) -> None:
    with pytest.raises(BadInputError):
        stocked.adapters.yank(ONE, reason=text)


def test_amendments_are_limited(stocked: Registry) -> None:
    add_rows(stocked, "Amendment", REMARKS - 1, field="note")
    assert stocked.adapters.amend(ONE, note="last").changed
    assert not stocked.adapters.amend(ONE, note="last").changed
    with pytest.raises(BadInputError) as caught:
        stocked.adapters.amend(ONE, note="one more")
    assert f"at most {REMARKS:,}" in caught.value.message
    assert stocked.adapters.show(ONE).note == "last"
    # Notes, which every publisher may change, cannot use up the room for corrections.
    assert stocked.adapters.amend(ONE, val_loss=0.2, reason="typo").changed


def test_evaluations_are_limited(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "EVALUATIONS", 20)
    add_rows(stocked, "Evaluation", 19, value=0.5)
    stocked.evaluations.record(ONE, {"acc": 0.5})
    assert stocked.evaluations.record(ONE, {"acc": 0.5}).unchanged == ("acc",)
    for dry_run in (True, False):
        with pytest.raises(BadInputError) as caught:
            stocked.evaluations.record(ONE, {"f1": 0.5}, dry_run=dry_run)
        assert "at most 20" in caught.value.message


def test_text_is_limited() -> None:
    rows = [{"reason": "x" * 10_000}] * 210
    with pytest.raises(BadInputError):
        require_within("a", "yanks", 1_000, rows)
    require_within("a", "yanks", 1_000, rows[:200])
    with pytest.raises(BadInputError):
        require_within("a", "yanks", 1_000, [{"reason": "\U0001f600" * 10_000}] * 20)


LONG = "".join(chr(0x20000 + 97 * number) for number in range(490))
"""Characters of four bytes each, in a text that PostgreSQL cannot compress."""


def test_names_of_datasets_can_be_indexed(stocked: Registry) -> None:
    stocked.adapters.amend(ONE, dataset=LONG, reason="long, and within the limit")
    with pytest.raises(BadInputError):
        stocked.adapters.amend(ONE, dataset=LONG, dataset_revision=LONG[:195], reason="too long")
    assert not stocked.adapters.show(ONE).dataset_revision
