"""Amendments on their way between registries: they come along, come later, are no orders, and give way to what is here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fusery.registry import Registry
from fusery.registry.errors import BadInputError

ONE = "course_rec_v1_20260115"
SAID = ("val_loss", "note", "dataset", "dataset_revision", "dataset_digest", "examples", "date", "tags")
PEOPLE = ("field", "from", "to", "reason", "at", "by")


def facts(registry: Registry) -> dict[str, Any]:
    shown = registry.adapters.show(ONE)
    told = [{key: each[key] for key in PEOPLE} for each in shown["amendments"]]
    return {**{key: shown[key] for key in SAID}, "amendments": told}


def states(done: Any) -> list[tuple[str, str, str | None]]:
    return [(item.kind, item.state, item.reason) for item in done.items_ if item.kind == "adapter"]


@pytest.fixture
def amended(stocked: Registry) -> Registry:
    stocked.adapters.amend(ONE, val_loss=0.061, date="20260114", tags={"team": "ads"}, reason="typo")
    stocked.adapters.amend(
        ONE, dataset="catalogue", dataset_revision="v2", clear=["tag.team"], reason="sheet"
    )
    return stocked


def test_a_new_adapter_brings_its_amendments(amended: Registry, sound: Registry, other_home: Path) -> None:
    assert states(amended.exchange.push("course_rec@1", other_home)) == [("adapter", "copied", None)]
    assert facts(sound) == facts(amended)
    registered = amended.upkeep.log(reference=ONE)[0]["at"]
    assert sound.adapters.show(ONE, at=registered)["val_loss"] == 0.61
    assert states(amended.exchange.push("course_rec@1", other_home)) == [("adapter", "present", None)]


def test_later_ones_come_later(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.exchange.push("course_rec@1", other_home)
    stocked.adapters.amend(ONE, val_loss=0.061, clear=["examples"], dataset="catalogue", reason="typo")
    before = sound.upkeep.log()[-1]["at"]
    told = stocked.exchange.push("course_rec@1", other_home, dry_run=True)
    assert states(told) == [("adapter", "completed", None)]
    assert sound.adapters.show(ONE)["val_loss"] == 0.61
    assert states(stocked.exchange.push("course_rec@1", other_home)) == [("adapter", "completed", None)]
    assert facts(sound) == facts(stocked)
    event = sound.upkeep.log()[-1]
    assert (event["action"], event["detail"]["added"]) == ("adapter.received", ["amendment"])
    # It was made before, and is believed here since it came.
    assert sound.adapters.show(ONE, at=before)["val_loss"] == 0.61
    assert sound.adapters.show(ONE, at=event["at"])["val_loss"] == 0.061
    stocked.adapters.amend(ONE, val_loss=0.07, reason="again")
    stocked.exchange.push("course_rec@1", other_home)
    assert facts(sound) == facts(stocked)
    assert states(stocked.exchange.push("course_rec@1", other_home)) == [("adapter", "present", None)]


def test_each_keeps_what_it_amended_itself(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.exchange.push("course_rec@1", other_home)
    sound.adapters.amend(ONE, val_loss=0.3, reason="measured here")
    stocked.adapters.amend(ONE, val_loss=0.061, note="typo in the loss", reason="typo")
    done = stocked.exchange.push("course_rec@1", other_home)
    assert states(done) == [("adapter", "completed", "keeps its own val_loss")]
    shown = sound.adapters.show(ONE)
    assert (shown["val_loss"], shown["note"]) == (0.3, "typo in the loss")
    assert states(stocked.exchange.push("course_rec@1", other_home)) == [
        ("adapter", "present", "keeps its own val_loss")
    ]
    stocked.adapters.amend(ONE, val_loss=0.05, reason="again")
    stocked.exchange.push("course_rec@1", other_home)
    assert sound.adapters.show(ONE)["val_loss"] == 0.3


def test_a_promotion_is_overtaken_by_what_comes(stocked: Registry, other: Registry, other_home: Path) -> None:
    """By the order in which it came, whatever time it claims."""
    stocked.exchange.push("course_rec", other_home)
    other.aliases.set_rules("prod", {"val_loss_within": 0.0})
    other.aliases.promote("course_rec@1", "prod")
    other.aliases.promote("course_rec@2", "prod")
    stocked.adapters.amend("course_rec@2", val_loss=0.9, reason="typo")
    with stocked.workspace.database.write() as session:
        before = (datetime.now(UTC) - timedelta(hours=20)).strftime("%Y-%m-%d %H:%M:%S.%f")
        session.execute(text(f"UPDATE amendment SET at = '{before}', since = '{before}'"))
    stocked.exchange.push("course_rec@2", other_home)
    assert [problem.code for problem in other.upkeep.audit().problems] == ["amended_after_promotion"]


@pytest.mark.parametrize(
    "forged",
    [
        "field = 'rank'",
        "before = '{{'",
        "before = '0.610'",
        "before = '\"0.61\"'",
        "before = '1'",
        "after = '0.5'",
        "field = 'tag.a b'",
        "field = 'note', before = '\"\\u0000\"'",
        "field = 'date', before = '\"20250101\"', after = '\"20260115\"'",
    ],
)
def test_invalid_amendments_keep_the_adapter_out(
    stocked: Registry, sound: Registry, other_home: Path, edit: Callable[..., None], forged: str
) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, reason="typo")
    edit(f"UPDATE amendment SET {forged}")
    with pytest.raises(BadInputError):
        stocked.exchange.push("course_rec@1", other_home)
    assert sound.adapters.list() == []


def test_amendments_by_a_clock_that_is_ahead_count_from_now_on(
    stocked: Registry, sound: Registry, other_home: Path, edit: Callable[..., None]
) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, reason="typo")
    edit("UPDATE amendment SET since = '{soon}', at = '{soon}'")
    stocked.exchange.push("course_rec@1", other_home)
    now = datetime.now(UTC).isoformat()
    assert sound.adapters.show(ONE, at=now)["val_loss"] == 0.061
    sound.adapters.amend(ONE, val_loss=0.07, reason="again")
    assert sound.adapters.show(ONE).amendments[-1].at <= datetime.now(UTC)


def test_an_exported_folder_keeps_the_day_that_was_corrected(
    amended: Registry, sound: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    folder = amended.exchange.export(ONE, tmp_path / "out").path
    sound.bases.add(tiny_base, name="tiny")
    view = sound.exchange.import_folder(folder)
    assert (view["name"], view["date"], view["val_loss"]) == (ONE, "20260114", 0.061)
    assert [each["field"] for each in view["amendments"]] == ["date"]
    again = sound.exchange.import_folder(folder)
    assert (again.created, again["date"]) == (False, "20260114")
    assert len(sound.adapters.show(ONE)["amendments"]) == 1
