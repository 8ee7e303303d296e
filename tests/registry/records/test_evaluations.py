"""Evaluations: which of them count, which are on record already, and which can be compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.records.evaluation import comparable, key_of, mismatch, range_problem, setting_of
from fusery.registry.records.references import resolve_adapter
from fusery.registry.records.views import (
    evaluation_records,
    missing_evaluations,
    newest_value,
    newest_values,
    stands,
)

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

AT = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SETTING = {"dataset": "mmlu", "split": "test", "harness": "lm-eval", "shots": 5, "seed": 1}


def made(value: float = 0.5, withdrawn: datetime | None = None, **changes: Any) -> tables.EvaluationRow:
    setting = {**SETTING, **changes}
    return tables.EvaluationRow(
        metric="acc", value=value, at=AT, by="tester", withdrawn_at=withdrawn, **setting
    )


def test_values_outside_of_a_range() -> None:
    for metric, value in (("wiki.word_perplexity", 0.5), ("ppl", 0.9), ("eval_loss", -0.1)):
        assert range_problem(metric, value)
    for metric, value in (("wiki.ppl", 1 - 1e-7), ("eval_loss", 0.0), ("bits_per_byte", 0.5), ("acc", -1.0)):
        assert range_problem(metric, value) is None


def test_a_withdrawn_evaluation_counted_until_then() -> None:
    row = made(withdrawn=AT + 2 * DAY)
    moments = (AT - DAY, AT, AT + DAY, AT + 2 * DAY, None)
    assert [stands(row, at) for at in moments] == [False, True, True, False, False]
    assert [stands(made(), at) for at in moments] == [False, True, True, True, True]
    assert evaluation_records("a", [row, made()]) == evaluation_records("a", [made()])
    [record] = evaluation_records("a", [made(dataset="")])
    assert (record.adapter, record.dataset, record.split, record.shots) == ("a", None, "test", 5)


def test_which_values_are_on_record() -> None:
    adapter = tables.AdapterRow(evaluations=[made(0.5), made(0.6, seed=2), made(0.7, AT, seed=3)])
    measured = [{"metric": "acc", **SETTING, "seed": seed, "value": 0.5} for seed in (1, 2, 3)]
    new, known, others = missing_evaluations(adapter, measured)
    assert (new, known, others) == ([measured[2]], ["acc"], [adapter.evaluations[1]])
    assert key_of(made()) == key_of(measured[0]) == ("acc", "mmlu", "test", "lm-eval", 5, 1)


def test_what_can_be_compared() -> None:
    assert comparable(made(dataset="")) == (None, "test", "lm-eval", 5)
    assert mismatch(made(), made(seed=9)) is None
    assert mismatch(made(), made(split="dev", shots=0)) == "metric_other_split"
    assert setting_of(made()) == "mmlu/test, lm-eval, 5-shot, seed 1"
    assert setting_of(made(), seed=False) == "mmlu/test, lm-eval, 5-shot"
    assert setting_of(made(dataset="", split="", harness="", shots=None, seed=None)) == ""


@SQLITE
def test_the_newest_value_that_stands(stocked: Registry) -> None:
    stocked.evaluations.record("course_rec@1", {"acc": 0.9, "f1": 0.1})
    stocked.evaluations.record("course_rec@1", {"acc": 0.8}, seed=1)
    stocked.evaluations.record("course_rec@1", {"acc": 0.7}, seed=2)
    stocked.evaluations.record("course_rec@2", {"acc": 0.6})
    with stocked.workspace.database.write() as session:
        row = session.scalars(select(tables.EvaluationRow).where(tables.EvaluationRow.value == 0.7)).one()
        row.withdrawn_at = AT
    with stocked.workspace.database.read() as session:
        one, two = (resolve_adapter(session, f"course_rec@{version}").id for version in (1, 2))
        values = session.execute(select(tables.AdapterRow.id, newest_value("acc"))).all()
        assert sorted(map(tuple, values)) == [(one, 0.8), (two, 0.6)]
        found = newest_values(session, [one, two], ["acc", "f1"])
        assert found == {one: {"acc": 0.8, "f1": 0.1}, two: {"acc": 0.6}}
        assert newest_values(session, [two], ["f1"]) == {}
