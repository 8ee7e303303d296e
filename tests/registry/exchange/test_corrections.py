"""Amendments on their way between registries: they come along, come later, are no orders, and give way to what is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tiny_architectures
import tiny_models
from made_calibrations import put_calibration
from signing_keys import write_pair
from sqlalchemy import select, text

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest

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
    again = sound.exchange.import_folder(folder)
    assert (again.created, again.date) == (False, "20260114")
    kept, brought = (
        [(each.field, each.to, each.reason) for each in registry.adapters.show(ONE).amendments]
        for registry in (amended, sound)
    )
    assert brought == kept
    with sound.workspace.database.read() as session:
        assert len(events.history(session, kind="adapter", subject=ONE, action="adapter.received")) == 1


QUERY = "model.layers.0.self_attn.q_proj"
SWITCH = "model.layers.0.mlp.switch_mlp.up_proj"


@dataclass(frozen=True)
class Pull:
    """A registry with a base, ours, and what copies the base here."""

    theirs: Registry
    ours: Registry
    bring: Callable[[], object]


@pytest.fixture
def pull(sqlite_registry: Registry, other: Registry, other_home: Path) -> Pull:
    return Pull(other, sqlite_registry, lambda: sqlite_registry.exchange.pull("four", other_home))


def based(registry: Registry, tmp_path: Path, *, experts: bool = False, bits: int | None = 4) -> None:
    if experts:
        base = tiny_architectures.make_architecture(tmp_path / "base", "qwen3_moe", bits=4, group_size=32)
    else:
        base = tiny_models.make_base(tmp_path / "base", bits=bits, group_size=32, layers=1)
    registry.bases.add(base, name="four")


@pytest.mark.parametrize(
    "widths",
    [{QUERY: 160}, {"model.layers.0.mlp.down_proj": 256, QUERY: 1}, {SWITCH: 64}],
    ids=["wider", "one number", "a switch layer"],
)
def test_one_that_does_not_fit_is_refused(widths: dict[str, int], pull: Pull, tmp_path: Path) -> None:
    based(pull.theirs, tmp_path, experts=SWITCH in widths)
    put_calibration(pull.theirs, "four", widths)
    with pytest.raises(BadInputError) as caught:
        pull.bring()
    assert [*widths][-1] in caught.value.message
    assert caught.value.hint
    assert not pull.ours.bases.show("four").calibrations
    assert pull.ours.upkeep.audit().ok


@pytest.mark.parametrize("bits", [4, None], ids=["quantised", "plain"])
def test_one_that_fits_is_taken(bits: int | None, pull: Pull, tmp_path: Path) -> None:
    """What it knows besides, of a module that the record does not have or of plain numbers, hurts nobody."""
    based(pull.theirs, tmp_path, bits=bits)
    made = put_calibration(
        pull.theirs, "four", {QUERY: 128, "elsewhere": 3} if bits else {QUERY: 99, "elsewhere": 3}
    )
    pull.bring()
    assert [each.digest for each in pull.ours.bases.show("four").calibrations] == [made]


SIGNED_ONE = "course_rec@1"


@pytest.fixture
def key(stocked: Registry, other: Registry, other_home: Path) -> str:
    """The key of a published fused artifact that is in both registries."""
    made = stocked.fused.fuse(SIGNED_ONE, FuseRequest("keep", accept_loss=True), publish="full")
    stocked.exchange.push(SIGNED_ONE, other_home, fused=True)
    return str(made["key"])


@pytest.mark.parametrize("kind", ["adapter", "fused"])
def test_a_later_signature_comes_later(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, key: str, kind: str
) -> None:
    subject = {"adapter": SIGNED_ONE, "fused": key}[kind]
    number = stocked.trust.sign(subject, write_pair(tmp_path, "ann").signing()).key_id
    for dry_run in (True, False):
        done = stocked.exchange.push(SIGNED_ONE, other_home, fused=True, dry_run=dry_run)
        changed = [(item.kind, item.state, item.bytes) for item in done.items_ if item.state != "present"]
        assert changed == [(kind, "completed", 0)]
    event = other.upkeep.log()[-1]
    assert (event["action"], event["detail"]["added"]) == (f"{kind}.received", ["signature"])
    with other.workspace.database.read() as session:
        assert [row.key_id for row in session.scalars(select(tables.SignatureRow))] == [number]
    again = stocked.exchange.push(SIGNED_ONE, other_home, fused=True)
    assert {item.state for item in again.items_} == {"present"}
    assert other.upkeep.audit().ok


def test_a_signature_that_cannot_be_one_is_not_missing(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, key: str
) -> None:
    ann, eve = write_pair(tmp_path, "ann"), write_pair(tmp_path, "eve")
    trusted = other.trust.add_key("ann", ann.public, ["*#prod"])
    stocked.trust.sign(SIGNED_ONE, eve.signing())
    with stocked.workspace.database.write() as session:
        session.scalars(select(tables.SignatureRow)).one().key_id = trusted["key_id"]
    assert {item.state for item in stocked.exchange.push(SIGNED_ONE, other_home).items_} == {"present"}
    assert other.trust.signatures(SIGNED_ONE)["signatures"] == []


COLUMNS = 'adapter_id, metric, dataset, split, harness, at, "by"'
MEASURED_ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def measured(registry: Registry) -> list[tuple[str, float, str | None, str]]:
    return [
        (each.metric, each.value, each.split, each.by) for each in registry.evaluations.list(MEASURED_ONE)
    ]


def measured_states(done: Any) -> list[tuple[str, str | None]]:
    return [(item.state, item.reason) for item in done.items_ if item.name == MEASURED_ONE]


def test_they_come_along_and_come_later(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.evaluations.record(MEASURED_ONE, {"acc": 0.5}, split="test", seed=1)
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("copied", None)]
    assert measured(sound) == measured(stocked) == [("acc", 0.5, "test", "tester")]
    assert sound.evaluations.list()[0].at == stocked.evaluations.list()[0].at
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("present", None)]
    stocked.evaluations.record(MEASURED_ONE, {"f1": 0.4})
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home, dry_run=True)) == [
        ("completed", None)
    ]
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("completed", None)]
    assert measured(sound) == measured(stocked)
    [event] = [
        each for each in sound.upkeep.log(reference=MEASURED_ONE) if each["action"] == "adapter.received"
    ][1:]
    assert event["detail"]["added"] == ["evaluation"]
    assert measured_states(stocked.exchange.pull(MEASURED_ONE, other_home)) == [("present", None)]


def test_what_is_on_record_here_stays(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.exchange.push(MEASURED_ONE, other_home)
    sound.evaluations.record(MEASURED_ONE, {"acc": 0.6})
    stocked.evaluations.record(MEASURED_ONE, {"acc": 0.5, "f1": 0.4})
    done = stocked.exchange.push(MEASURED_ONE, other_home)
    assert measured_states(done) == [("completed", "keeps its own acc")]
    assert [row[:2] for row in measured(sound)] == [("acc", 0.6), ("f1", 0.4)]
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [
        ("present", "keeps its own acc")
    ]


def test_an_exported_folder_has_them(
    stocked: Registry, sound: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    bare = stocked.exchange.export(TWO, tmp_path / "bare")
    assert '"evaluations"' not in (bare.path / "adapter_metadata.json").read_text()
    stocked.evaluations.record(
        MEASURED_ONE, {"acc": 0.5}, dataset="courses", split="test", harness="ours", seed=3
    )
    stocked.evaluations.record(
        MEASURED_ONE, Path(__file__).parents[1] / "comparison/results/lm_eval_0.4.13.json"
    )
    folder = stocked.exchange.export(MEASURED_ONE, tmp_path / "out").path
    assert "tester" not in (folder / "adapter_metadata.json").read_text()
    sound.bases.add(tiny_base, name="tiny")
    for _ in range(2):  # the second time they are there already
        sound.exchange.import_folder(folder)
        told = [
            [{**each.to_dict(), "at": "", "by": ""} for each in registry.evaluations.list(MEASURED_ONE)]
            for registry in (stocked, sound)
        ]
        assert told[0] == told[1]
        assert len(told[0]) == 7


def test_a_withdrawal_goes_along_and_nothing_comes_back(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.evaluations.record(MEASURED_ONE, {"acc": 0.9, "f1": 0.5})
    stocked.exchange.push(MEASURED_ONE, other_home)
    stocked.evaluations.withdraw(MEASURED_ONE, "acc", reason="of another adapter")
    # Who pulls what still stands there does not get it back.
    assert measured_states(stocked.exchange.pull(MEASURED_ONE, other_home)) == [("present", None)]
    assert [row[:2] for row in measured(stocked)] == [("f1", 0.5)]
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home, dry_run=True)) == [
        ("completed", None)
    ]
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("completed", None)]
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5)]
    event = [
        each for each in sound.upkeep.log(reference=MEASURED_ONE) if each["action"] == "adapter.received"
    ][-1]
    assert event["detail"]["added"] == ["withdrawn evaluation"]
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("present", None)]
    # The right value, and even the same one measured anew, go along again.
    stocked.evaluations.record(MEASURED_ONE, {"acc": 0.9})
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("completed", None)]
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5), ("acc", 0.9)]
    assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [("present", None)]
    assert measured_states(stocked.exchange.pull(MEASURED_ONE, other_home)) == [("present", None)]


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
    stocked.evaluations.record(MEASURED_ONE, {"acc": 0.9})
    if "withdrawn" in change:
        stocked.evaluations.withdraw(MEASURED_ONE, "acc", reason="wrong")
    edit(change)
    with pytest.raises(BadInputError):
        stocked.exchange.push(MEASURED_ONE, other_home)
    assert sound.adapters.list() == []


def test_dates_from_a_clock_ahead_are_not_in_the_future(
    stocked: Registry, sound: Registry, other_home: Path, edit: Callable[..., None]
) -> None:
    """Nor is a value that was withdrawn on record in a registry that never had it."""
    stocked.evaluations.record(MEASURED_ONE, {"acc": 0.9, "f1": 0.5})
    stocked.evaluations.withdraw(MEASURED_ONE, "acc", reason="wrong")
    edit(
        "UPDATE evaluation SET at = '{soon}'",
        "UPDATE evaluation SET withdrawn_at = '{soon}' WHERE metric = 'acc'",
    )
    for state in ("copied", "present"):
        assert measured_states(stocked.exchange.push(MEASURED_ONE, other_home)) == [(state, None)]
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5)]
    with sound.workspace.database.read() as session:
        for row in session.scalars(select(tables.EvaluationRow)):
            assert max(row.at, row.withdrawn_at or row.at) <= datetime.now(UTC)
