"""Evaluations on their way between registries: they come along, come later, and give way to what is on record here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def measured(registry: Registry) -> list[tuple[str, float, str | None, str]]:
    return [(each.metric, each.value, each.split, each.by) for each in registry.evaluations.list(ONE)]


def states(done: Any) -> list[tuple[str, str | None]]:
    return [(item.state, item.reason) for item in done.items_ if item.name == ONE]


@pytest.fixture
def sound(other: Registry) -> Iterator[Registry]:
    """The other registry, which must be sound at the end."""
    yield other
    assert other.upkeep.audit().ok, other.upkeep.audit().problems


def test_they_come_along_and_come_later(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5}, split="test", seed=1)
    assert states(stocked.exchange.push(ONE, other_home)) == [("copied", None)]
    assert measured(sound) == measured(stocked) == [("acc", 0.5, "test", "tester")]
    assert sound.evaluations.list()[0].at == stocked.evaluations.list()[0].at
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]
    stocked.evaluations.record(ONE, {"f1": 0.4})
    assert states(stocked.exchange.push(ONE, other_home, dry_run=True)) == [("completed", None)]
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", None)]
    assert measured(sound) == measured(stocked)
    [event] = [each for each in sound.upkeep.log(reference=ONE) if each["action"] == "adapter.received"][1:]
    assert event["detail"]["added"] == ["evaluation"]
    assert states(stocked.exchange.pull(ONE, other_home)) == [("present", None)]


def test_what_is_on_record_here_stays(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.exchange.push(ONE, other_home)
    sound.evaluations.record(ONE, {"acc": 0.6})
    stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.4})
    done = stocked.exchange.push(ONE, other_home)
    assert states(done) == [("completed", "keeps its own acc")]
    assert [row[:2] for row in measured(sound)] == [("acc", 0.6), ("f1", 0.4)]
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", "keeps its own acc")]


@pytest.mark.parametrize(
    "change",
    {
        "no name": "UPDATE evaluation SET metric = 'a b'",
        "twice": 'INSERT INTO evaluation (adapter_id, metric, value, dataset, split, harness, at, "by") '
        'SELECT adapter_id, metric, 0.7, dataset, split, harness, at, "by" FROM evaluation',
        "a digest that is none": "UPDATE evaluation SET source = 'x'",
        "control characters": "UPDATE evaluation SET split = '\x1b'",
    }.items(),
    ids=lambda pair: pair[0],
)
def test_evaluations_that_are_none_keep_the_adapter_out(
    stocked: Registry, sound: Registry, other_home: Path, change: tuple[str, str]
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5})
    with stocked.workspace.database.write() as session:
        session.connection().exec_driver_sql(change[1])
    with pytest.raises(BadInputError) as caught:
        stocked.exchange.push(ONE, other_home)
    assert caught.value.hint
    assert sound.adapters.list() == []


def soon() -> str:
    """Return a moment in the future, within the difference that clocks may have."""
    return (datetime.now(UTC) + timedelta(hours=20)).strftime("%Y-%m-%d %H:%M:%S.%f")


def test_evaluation_from_a_clock_ahead_is_not_in_the_future(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.5})
    with stocked.workspace.database.write() as session:
        session.execute(text(f"UPDATE evaluation SET at = '{soon()}'"))
    stocked.exchange.push(ONE, other_home)
    assert sound.evaluations.list()[0].at <= datetime.now(UTC)


def test_an_exported_folder_has_them(
    stocked: Registry, sound: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    bare = stocked.exchange.export(TWO, tmp_path / "bare")
    assert '"evaluations"' not in (bare.path / "adapter_metadata.json").read_text()
    stocked.evaluations.record(ONE, {"acc": 0.5}, dataset="courses", split="test", harness="ours", seed=3)
    stocked.evaluations.record(ONE, Path(__file__).parents[1] / "evaluation/results/lm_eval_0.4.13.json")
    folder = stocked.exchange.export(ONE, tmp_path / "out").path
    assert "tester" not in (folder / "adapter_metadata.json").read_text()
    sound.bases.add(tiny_base, name="tiny")
    for _ in range(2):  # the second time they are there already
        sound.exchange.import_folder(folder)
        told = [
            [{**each.to_dict(), "at": "", "by": ""} for each in registry.evaluations.list(ONE)]
            for registry in (stocked, sound)
        ]
        assert told[0] == told[1]
        assert len(told[0]) == 7


def test_a_withdrawal_goes_along_and_nothing_comes_back(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9, "f1": 0.5})
    stocked.exchange.push(ONE, other_home)
    stocked.evaluations.withdraw(ONE, "acc", reason="of another adapter")
    # Who pulls what still stands there does not get it back.
    assert states(stocked.exchange.pull(ONE, other_home)) == [("present", None)]
    assert [row[:2] for row in measured(stocked)] == [("f1", 0.5)]
    assert states(stocked.exchange.push(ONE, other_home, dry_run=True)) == [("completed", None)]
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", None)]
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5)]
    event = [each for each in sound.upkeep.log(reference=ONE) if each["action"] == "adapter.received"][-1]
    assert event["detail"]["added"] == ["withdrawn evaluation"]
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]
    # The right value, and even the same one measured anew, go along again.
    stocked.evaluations.record(ONE, {"acc": 0.9})
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", None)]
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5), ("acc", 0.9)]
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]
    assert states(stocked.exchange.pull(ONE, other_home)) == [("present", None)]


def test_a_registry_that_never_had_it_learns_that_it_was_withdrawn(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    stocked.exchange.push(ONE, other_home)
    assert measured(sound) == []
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]


def test_withdrawal_from_a_clock_ahead_is_not_in_the_future(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    with stocked.workspace.database.write() as session:
        session.execute(text(f"UPDATE evaluation SET withdrawn_at = '{soon()}'"))
    for state in ("copied", "present", "present"):
        assert states(stocked.exchange.push(ONE, other_home)) == [(state, None)]
    with sound.workspace.database.read() as session:
        assert session.scalars(select(tables.Evaluation.withdrawn_at)).one() <= datetime.now(UTC)  # type: ignore[operator]


@pytest.mark.parametrize("half", ["withdrawn_by", "withdrawn_reason"])
def test_half_a_withdrawal_keeps_the_adapter_out(
    stocked: Registry, sound: Registry, other_home: Path, half: str
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    with stocked.workspace.database.write() as session:
        session.connection().exec_driver_sql(f"UPDATE evaluation SET {half} = NULL")
    with pytest.raises(BadInputError, match="an evaluation that is none"):
        stocked.exchange.push(ONE, other_home)
    assert sound.adapters.list() == []


def test_a_reason_that_nobody_could_give_keeps_the_adapter_out(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    with stocked.workspace.database.write() as session:
        session.execute(text("UPDATE evaluation SET withdrawn_reason = :why"), {"why": "x" * 10_001})
    with pytest.raises(BadInputError, match="an evaluation that is none"):
        stocked.exchange.push(ONE, other_home)
    assert sound.adapters.list() == []
