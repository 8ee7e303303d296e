"""Recording and withdrawing evaluations."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fusery.registry import Registry, Reporter, tables
from fusery.registry.comparison import measured
from fusery.registry.comparison.harness_results import MetricValue
from fusery.registry.errors import (
    AlreadyExistsError,
    BadInputError,
    DatabaseReadOnlyError,
    UnknownReferenceError,
)
from fusery.registry.records.evaluation import Evaluation
from fusery.registry.records.references import resolve_adapter
from fusery.registry.records.views import stands

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
REAL = Path(__file__).parent / "results"


def values(registry: Registry, reference: str = ONE) -> dict[str, float]:
    return {each.metric: each.value for each in registry.evaluations.list(reference)}


def log(registry: Registry) -> list[dict[str, Any]]:
    return [event["detail"] for event in registry.upkeep.log() if event["action"] == "adapter.evaluated"]


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_harness_s_file_is_recorded_and_said_in_the_log(stocked: Registry) -> None:
    done = stocked.evaluations.record("course_rec@1", REAL / "lm_eval_0.4.13.json")
    assert (done.adapter, done.form, done.unchanged, done.dry_run) == (ONE, "lm-eval", (), False)
    assert list(done.recorded) == stocked.evaluations.list() == stocked.evaluations.list(ONE)
    one = stocked.evaluations.list(metric="courses.acc")[0]
    assert isinstance(one, Evaluation)
    assert (one.value, one.split, one.by, one.source) == (0.75, "test", "tester", done.recorded[0].source)
    assert stocked.adapters.show(ONE).evaluations == tuple(stocked.evaluations.list())
    [said] = log(stocked)
    assert {each["metric"]: each["value"] for each in said["metrics"]} == values(stocked)
    assert said["sources"] == [one.source]
    assert stocked.upkeep.audit().ok


def test_the_same_once_more_is_there_already(stocked: Registry) -> None:
    first = stocked.evaluations.record(ONE, {"accuracy": 0.9, "f1": 0.8})
    again = stocked.evaluations.record(ONE, {"accuracy": 0.9, "f1": 0.8, "recall": 0.7})
    assert (len(first.recorded), again.unchanged) == (2, ("accuracy", "f1"))
    assert [each.metric for each in again.recorded] == ["recall"]
    assert stocked.evaluations.record(ONE, {"accuracy": 0.9}).recorded == ()
    assert len(log(stocked)) == 2  # what records nothing says nothing


def test_another_value_of_the_same_is_refused_with_all_that_comes_with_it(stocked: Registry) -> None:
    courses: dict[str, Any] = {"dataset": "courses", "split": "test", "seed": 1}
    stocked.evaluations.record(ONE, {"accuracy": 0.9}, **courses)
    with pytest.raises(AlreadyExistsError) as caught:
        stocked.evaluations.record(ONE, {"accuracy": 0.91, "f1": 0.8}, **courses)
    assert "--seed N" in (caught.value.hint or "") and "more" not in caught.value.message
    assert values(stocked) == {"accuracy": 0.9}
    # Another seed, split or dataset is another measurement.
    stocked.evaluations.record(ONE, {"accuracy": 0.91}, **courses | {"seed": 2})
    stocked.evaluations.record(ONE, {"accuracy": 0.92}, **courses | {"split": "validation"})
    assert [each.value for each in stocked.evaluations.list(ONE)] == [0.9, 0.91, 0.92]
    assert [each.value for each in stocked.evaluations.list(limit=2)] == [0.91, 0.92]


def test_results_of_another_registered_adapter_are_refused(stocked: Registry, tmp_path: Path) -> None:
    digest = stocked.adapters.show(ONE).digest
    other = written(tmp_path / "r.json", {"acc": 1, "model": f"/models/{digest}/adapter"})
    for file in (REAL / "lm_eval_0.4.13.json", REAL / "lighteval_0.13.0.json", other):
        with pytest.raises(BadInputError) as caught:
            stocked.evaluations.record(TWO, file)
        assert caught.value.hint == f"fusery eval record {ONE} {file}"
    assert stocked.evaluations.list() == []
    stocked.evaluations.record(ONE, other)
    # A name of nobody here says nothing.
    stocked.evaluations.record(TWO, written(tmp_path / "r.json", {"acc": 1, "model": "other_v1_20260101"}))


def test_what_is_said_besides_must_fit(stocked: Registry, tmp_path: Path) -> None:
    file = written(tmp_path / "r.json", {"acc": 1, "split": "test", "seed": 1})
    wrong: list[dict[str, Any]] = [{"split": "validation"}, {"seed": 2}, {"seed": 2**63}]
    for said in (*wrong, {"dataset": "x" * 301}, {"harness": "a\x1b[0m"}):
        with pytest.raises(BadInputError):
            stocked.evaluations.record(ONE, file, **said)
    assert stocked.evaluations.list() == []


def test_a_dry_run_writes_nothing(stocked: Registry) -> None:
    before = len(stocked.upkeep.log())
    done = stocked.evaluations.record(ONE, {"acc": 0.5}, dry_run=True)
    assert ([each.metric for each in done.recorded], done.dry_run) == (["acc"], True)
    assert (stocked.evaluations.list(), len(stocked.upkeep.log())) == ([], before)
    with pytest.raises(UnknownReferenceError):
        stocked.evaluations.record("course_rec@9", {"acc": 1})
    with pytest.raises(UnknownReferenceError):
        stocked.evaluations.list("course_rec@9")
    with pytest.raises(BadInputError):
        stocked.evaluations.list(metric="a b")


def test_what_was_changed_in_the_database_is_found(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"accuracy": 0.9}, split="test")
    assert stocked.upkeep.audit().ok
    changes = ["UPDATE evaluation SET split = 'validation'", "UPDATE evaluation SET value = 0.95"]
    for change in (*changes, "DELETE FROM evaluation"):
        with stocked.workspace.database.write() as session:
            session.execute(text(change))
        problems = stocked.upkeep.audit().problems
        assert {problem.subject for problem in problems} == {"evaluation accuracy"}
        if "DELETE" not in change:  # of an adapter that is asked for, too
            assert not stocked.upkeep.audit([ONE]).ok


def test_what_was_on_record_then(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"accuracy": 0.9})
    registered = stocked.upkeep.log(reference=ONE)[0]["at"]
    assert stocked.adapters.show(ONE, at=registered).evaluations == ()
    assert len(stocked.adapters.show(ONE, at="2099-01-01").evaluations) == 1


def test_lists_have_filter_and_sort_by_metrics(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"maj@8": 0.5, "a:b.acc": 0.2})
    stocked.evaluations.record(ONE, {"maj@8": 0.7}, seed=2)
    stocked.evaluations.record(TWO, {"maj@8": 0.6})

    def names(**how: Any) -> list[str]:
        return [each.name for each in stocked.adapters.list(**how)]

    # The value that was recorded last counts.
    for where, expected in (
        ("metric.maj@8 > 0.6", ONE),
        ("metric.maj@8 <= 0.6", TWO),
        ("metric.a:b.acc is null", TWO),
        ("not metric.a:b.acc > 0.1", TWO),
    ):
        assert names(where=where) == [expected]
    assert names(sort="metric.maj@8") == [TWO, ONE]
    assert names(sort="metric.maj@8:desc", limit=1) == [ONE]
    assert names(sort="metric.a:b.acc:asc,version:desc") == [ONE, TWO]
    found = [each.metrics for each in stocked.adapters.list(metrics=["maj@8", "a:b.acc"])]
    assert found == [{"maj@8": 0.7, "a:b.acc": 0.2}, {"maj@8": 0.6, "a:b.acc": None}]
    assert "metrics" not in stocked.adapters.list()[0]
    for bad in ("metric.", "metric.a b", "metric.a..b"):
        for how in ({"sort": bad}, {"where": f"{bad} > 1"}):
            with pytest.raises(BadInputError):
                names(**how)


def recorded_values(registry: Registry) -> list[float]:
    return [each.value for each in registry.evaluations.list(ONE)]


def test_it_counts_nowhere_and_the_right_value_takes_its_place(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5}, split="test")
    stocked.evaluations.record(ONE, {"acc": 0.9, "f1": 0.8}, split="test", seed=1)
    done = stocked.evaluations.withdraw(ONE, "acc", seed=1, reason="of another checkpoint")
    assert [(each.metric, each.value, each.seed) for each in done.withdrawn] == [("acc", 0.9, 1)]
    assert recorded_values(stocked) == [0.5, 0.8]
    assert [each.value for each in stocked.adapters.show(ONE).evaluations] == [0.5, 0.8]
    # The one that was recorded before it counts again.
    assert stocked.adapters.list(where="metric.acc > 0.4 and metric.acc < 0.6")[0].name == ONE
    assert stocked.adapters.list(sort="metric.acc:desc", metrics=["acc"])[0].metrics == {"acc": 0.5}
    compared = stocked.adapters.compare([ONE, TWO])
    assert compared.differs["metric.acc"] == (0.5, None)
    stocked.evaluations.record(ONE, {"acc": 0.7}, split="test", seed=1)
    assert recorded_values(stocked) == [0.5, 0.8, 0.7]
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
    assert stocked.evaluations.record(ONE, {"acc": 0.9}).unchanged == (), "the same can be recorded again"
    assert recorded_values(stocked) == [0.9]
    assert stocked.upkeep.audit().ok


def test_a_whole_dataset_goes_at_once_and_a_dry_run_writes_nothing(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.4}, dataset="courses")
    stocked.evaluations.record(ONE, {"acc": 0.6}, dataset="other")
    before = stocked.upkeep.log()
    tried = stocked.evaluations.withdraw(ONE, dataset="courses", reason="r", dry_run=True)
    assert (len(tried.withdrawn), recorded_values(stocked), stocked.upkeep.log()) == (
        2,
        [0.5, 0.4, 0.6],
        before,
    )
    stocked.evaluations.withdraw(ONE, dataset="courses", reason="r")
    assert recorded_values(stocked) == [0.6]


def test_what_has_to_be_said(stocked: Registry) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5}, split="test")
    wrong: list[dict[str, Any]] = [{"metric": "acc", "reason": text} for text in (" ", "a\0b", "x" * 10_001)]
    for said in (*wrong, {"reason": "r"}, {"metric": "a b", "reason": "r"}):
        with pytest.raises(BadInputError):
            stocked.evaluations.withdraw(ONE, **said)
    for said in ({"metric": "f1"}, {"split": "validation"}, {"metric": "acc", "seed": 1}):
        with pytest.raises(UnknownReferenceError):
            stocked.evaluations.withdraw(ONE, reason="r", **said)
    assert recorded_values(stocked) == [0.5]


def test_what_counted_at_a_moment() -> None:
    recorded, withdrawn = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    row = tables.EvaluationRow(metric="acc", value=0.5, at=recorded, by="", withdrawn_at=withdrawn)
    assert [stands(row, recorded + timedelta(day)) for day in (-1, 0, 30, 31)] == [False, True, True, False]
    assert not stands(row)


def test_a_withdrawal_that_was_changed_in_the_database_is_found(stocked: Registry) -> None:
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
    assert recorded_values(stocked) == [0.5]
    again = stocked.exchange.export(ONE, tmp_path / "again").path
    assert '"acc"' not in (again / "adapter_metadata.json").read_text("utf-8")


def put(registry: Registry, value: float) -> list[str]:
    heard: list[str] = []
    with registry.workspace.database.read() as session:
        number = resolve_adapter(session, ONE).id
    values = [MetricValue(metric="probe.loss", value=value)]
    measured.record_own(registry.workspace, [(number, values)], Reporter(heard.append))
    return heard


def test_the_newer_value_takes_the_place_of_the_other(stocked: Registry) -> None:
    assert put(stocked, 1.5) == [f"on record: fusery eval list {ONE}"]
    assert put(stocked, 1.5) == []
    assert len([e for e in stocked.upkeep.log() if e["action"] == "adapter.evaluated"]) == 1
    put(stocked, 1.25)
    assert [value.value for value in stocked.evaluations.list()] == [1.25]
    [event] = [e for e in stocked.upkeep.log() if e["action"] == "adapter.evaluation_withdrawn"]
    assert event["detail"]["reason"] == measured.AGAIN
    assert stocked.adapters.list(where="metric.probe.loss < 1.3")[0].name == ONE
    assert stocked.upkeep.audit().ok


def test_nothing_is_recorded_of_a_full_adapter_or_in_a_read_only_registry(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "EVALUATIONS", 1)
    put(stocked, 1.5)
    assert put(stocked, 1.25) == []
    assert [value.value for value in stocked.evaluations.list()] == [1.5]

    def refuse(_: object) -> None:
        raise DatabaseReadOnlyError("read-only")

    monkeypatch.setattr(type(stocked.workspace.database), "write", refuse)
    assert len(put(stocked, 1.25)) == 1
    assert [value.value for value in stocked.evaluations.list()] == [1.5]
