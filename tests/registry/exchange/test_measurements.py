"""Evaluations on their way between registries: they come along, come later, and give way to what is on record here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError

COLUMNS = 'adapter_id, metric, dataset, split, harness, at, "by"'
ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def measured(registry: Registry) -> list[tuple[str, float, str | None, str]]:
    return [(each.metric, each.value, each.split, each.by) for each in registry.evaluations.list(ONE)]


def states(done: Any) -> list[tuple[str, str | None]]:
    return [(item.state, item.reason) for item in done.items_ if item.name == ONE]


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


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE evaluation SET metric = 'a b'",
        f"INSERT INTO evaluation ({COLUMNS}, value) SELECT {COLUMNS}, 0.7 FROM evaluation",
        "UPDATE evaluation SET source = 'x'",
        "UPDATE evaluation SET split = '\x1b'",
        "UPDATE evaluation SET withdrawn_by = NULL",
        "UPDATE evaluation SET withdrawn_reason = NULL",
        f"UPDATE evaluation SET withdrawn_reason = '{'x' * 10_001}'",
    ],
    ids=lambda change: change[:60],
)
def test_invalid_evaluations_keep_the_adapter_out(
    stocked: Registry, sound: Registry, other_home: Path, edit: Callable[..., None], change: str
) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9})
    if "withdrawn" in change:
        stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    edit(change)
    with pytest.raises(BadInputError):
        stocked.exchange.push(ONE, other_home)
    assert sound.adapters.list() == []


def test_dates_from_a_clock_ahead_are_not_in_the_future(
    stocked: Registry, sound: Registry, other_home: Path, edit: Callable[..., None]
) -> None:
    """Nor is a value that was withdrawn on record in a registry that never had it."""
    stocked.evaluations.record(ONE, {"acc": 0.9, "f1": 0.5})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    edit(
        "UPDATE evaluation SET at = '{soon}'",
        "UPDATE evaluation SET withdrawn_at = '{soon}' WHERE metric = 'acc'",
    )
    for state in ("copied", "present"):
        assert states(stocked.exchange.push(ONE, other_home)) == [(state, None)]
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5)]
    with sound.workspace.database.read() as session:
        for row in session.scalars(select(tables.Evaluation)):
            assert max(row.at, row.withdrawn_at or row.at) <= datetime.now(UTC)
