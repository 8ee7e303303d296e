"""What was recorded wrongly as measured: it stays on record, counts nowhere, and the right value takes its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.records.evaluations import stands

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def values(registry: Registry) -> list[float]:
    return [each.value for each in registry.evaluations.list(ONE)]


def test_it_counts_nowhere_and_the_right_value_takes_its_place(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5}, split="test")
    stocked.evaluations.record(ONE, {"acc": 0.9, "f1": 0.8}, split="test", seed=1)
    done = stocked.evaluations.withdraw(ONE, "acc", seed=1, reason="of another checkpoint")
    assert [(each.metric, each.value, each.seed) for each in done.withdrawn] == [("acc", 0.9, 1)]
    assert values(stocked) == [0.5, 0.8]
    assert [each.value for each in stocked.adapters.show(ONE).evaluations] == [0.5, 0.8]
    # The one that was recorded before it counts again.
    assert stocked.adapters.list(where="metric.acc > 0.4 and metric.acc < 0.6")[0].name == ONE
    assert stocked.adapters.list(sort="metric.acc:desc", metrics=["acc"])[0].metrics == {"acc": 0.5}
    compared = stocked.adapters.compare([ONE, TWO])
    assert compared.differs["metric.acc"] == (0.5, None)
    stocked.evaluations.record(ONE, {"acc": 0.7}, split="test", seed=1)
    assert values(stocked) == [0.5, 0.8, 0.7]
    event = next(e for e in stocked.upkeep.log() if e["action"] == "adapter.evaluation_withdrawn")
    assert event["detail"]["reason"] == "of another checkpoint"
    assert event["detail"]["metrics"] == [{"metric": "acc", "value": 0.9, "split": "test", "seed": 1}]
    assert stocked.upkeep.audit().ok


def test_a_value_that_was_withdrawn_was_good_for_the_promotion_before(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    stocked.aliases.set_rules("prod", {"metrics": {"acc": {"at_least": 0.8}}})
    stocked.aliases.promote(ONE, "prod")
    stocked.evaluations.withdraw(ONE, "acc", reason="doubted")
    assert stocked.upkeep.audit().ok  # the move was right by what was on record then
    assert stocked.evaluations.record(ONE, {"acc": 0.9}).known == (), "the same can be recorded again"
    assert values(stocked) == [0.9]
    assert stocked.upkeep.audit().ok


def test_a_whole_dataset_goes_at_once_and_a_dry_run_writes_nothing(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.4}, dataset="courses")
    stocked.evaluations.record(ONE, {"acc": 0.6}, dataset="other")
    before = stocked.upkeep.log()
    tried = stocked.evaluations.withdraw(ONE, dataset="courses", reason="r", dry_run=True)
    assert (len(tried.withdrawn), values(stocked), stocked.upkeep.log()) == (2, [0.5, 0.4, 0.6], before)
    stocked.evaluations.withdraw(ONE, dataset="courses", reason="r")
    assert values(stocked) == [0.6]


def test_what_has_to_be_said(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5}, split="test")
    wrong: list[dict[str, Any]] = [{"metric": "acc", "reason": text} for text in (" ", "a\0b", "x" * 10_001)]
    for said in (*wrong, {"reason": "r"}, {"metric": "a b", "reason": "r"}):
        with pytest.raises(BadInputError):
            stocked.evaluations.withdraw(ONE, **said)
    for said in ({"metric": "f1"}, {"split": "validation"}, {"metric": "acc", "seed": 1}):
        with pytest.raises(UnknownReferenceError):
            stocked.evaluations.withdraw(ONE, reason="r", **said)
    assert values(stocked) == [0.5]


def test_what_counted_at_a_moment() -> None:
    recorded, withdrawn = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    row = tables.Evaluation(metric="acc", value=0.5, at=recorded, by="", withdrawn_at=withdrawn)
    assert [stands(row, recorded + timedelta(day)) for day in (-1, 0, 30, 31)] == [False, True, True, False]
    assert not stands(row)


def test_what_was_changed_in_the_database_is_found(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    assert stocked.upkeep.audit().ok
    for change in ("'another'", "NULL, withdrawn_at = NULL, withdrawn_by = NULL"):
        with stocked.workspace.database.write() as session:
            session.execute(text(f"UPDATE evaluation SET withdrawn_reason = {change}"))
        assert "evaluation acc" in {problem.subject for problem in stocked.upkeep.audit().problems}


def test_an_exported_folder_does_not_bring_it_back(stocked: Registry, tmp_path: Path) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9, "f1": 0.5})
    folder = stocked.exchange.export(ONE, tmp_path / "out").path
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    stocked.exchange.import_folder(folder)
    assert values(stocked) == [0.5]
    again = stocked.exchange.export(ONE, tmp_path / "again").path
    assert '"acc"' not in (again / "adapter_metadata.json").read_text("utf-8")
