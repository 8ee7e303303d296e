"""Amendments on their way between registries: they come along, come later, are no orders, and give way to what is here."""

from __future__ import annotations

from collections.abc import Callable
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
from fusery.registry.exchange import updates
from fusery.registry.fusion.fuse import FuseRequest

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
SAID = ("val_loss", "note", "dataset", "dataset_revision", "dataset_digest", "examples", "date", "tags")
PEOPLE = ("field", "from", "to", "reason", "at", "by")


def facts(registry: Registry) -> dict[str, Any]:
    shown = registry.adapters.show(ONE)
    amendments = [{key: each[key] for key in PEOPLE} for each in shown["amendments"]]
    return {**{key: shown[key] for key in SAID}, "amendments": amendments, "measured": measured(registry)}


def measured(registry: Registry) -> list[tuple[str, float, str | None, str]]:
    return [(each.metric, each.value, each.split, each.by) for each in registry.evaluations.list(ONE)]


def states(done: Any) -> list[tuple[str, str | None]]:
    return [(item.state, item.reason) for item in done.items_ if item.name == ONE]


def test_amendments_and_evaluations_come_along_and_come_later(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, date="20260114", tags={"team": "ads"}, reason="typo")
    stocked.adapters.amend(
        ONE, dataset="catalogue", dataset_revision="v2", clear=["tag.team"], reason="sheet"
    )
    stocked.evaluations.record(ONE, {"acc": 0.5}, split="test", seed=1)
    assert states(stocked.exchange.push(ONE, other_home)) == [("copied", None)]
    assert facts(sound) == facts(stocked)
    assert sound.evaluations.list()[0].at == stocked.evaluations.list()[0].at
    registered = stocked.upkeep.log(reference=ONE)[0]["at"]
    assert sound.adapters.show(ONE, at=registered)["val_loss"] == 0.61
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]
    before = sound.upkeep.log()[-1]["at"]
    stocked.adapters.amend(ONE, val_loss=0.07, clear=["examples"], reason="again")
    stocked.evaluations.record(ONE, {"f1": 0.4})
    assert states(stocked.exchange.push(ONE, other_home, dry_run=True)) == [("completed", None)]
    assert sound.adapters.show(ONE)["val_loss"] == 0.061
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", None)]
    assert facts(sound) == facts(stocked)
    event = sound.upkeep.log()[-1]
    assert (event["action"], event["detail"]["added"]) == ("adapter.received", ["amendment", "evaluation"])
    # It was made before, and takes effect here when it came.
    assert sound.adapters.show(ONE, at=before)["val_loss"] == 0.061
    assert sound.adapters.show(ONE, at=event["at"])["val_loss"] == 0.07
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]
    assert states(stocked.exchange.pull(ONE, other_home)) == [("present", None)]


def test_each_registry_keeps_what_it_amended_and_measured_itself(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.exchange.push(ONE, other_home)
    sound.adapters.amend(ONE, val_loss=0.3, reason="measured here")
    sound.evaluations.record(ONE, {"acc": 0.6})
    stocked.adapters.amend(ONE, val_loss=0.061, note="typo in the loss", reason="typo")
    stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.4})
    kept = "keeps its own val_loss, acc"
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", kept)]
    shown = sound.adapters.show(ONE)
    assert (shown["val_loss"], shown["note"]) == (0.3, "typo in the loss")
    assert [row[:2] for row in measured(sound)] == [("acc", 0.6), ("f1", 0.4)]
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", kept)]
    stocked.adapters.amend(ONE, val_loss=0.05, reason="again")
    stocked.exchange.push(ONE, other_home)
    assert sound.adapters.show(ONE)["val_loss"] == 0.3


def test_times_of_a_clock_that_is_ahead_count_from_now_on(
    stocked: Registry, sound: Registry, other_home: Path, edit: Callable[..., None]
) -> None:
    stocked.adapters.amend(ONE, val_loss=0.061, reason="typo")
    stocked.evaluations.record(ONE, {"acc": 0.9, "f1": 0.5})
    stocked.evaluations.withdraw(ONE, "acc", reason="wrong")
    edit(
        "UPDATE amendment SET since = '{soon}', at = '{soon}'",
        "UPDATE evaluation SET at = '{soon}'",
        "UPDATE evaluation SET withdrawn_at = '{soon}' WHERE metric = 'acc'",
    )
    for state in ("copied", "present"):
        assert states(stocked.exchange.push(ONE, other_home)) == [(state, None)]
    now = datetime.now(UTC)
    assert sound.adapters.show(ONE, at=now.isoformat())["val_loss"] == 0.061
    assert [row[:2] for row in measured(sound)] == [("f1", 0.5)]
    sound.adapters.amend(ONE, val_loss=0.07, reason="again")
    assert sound.adapters.show(ONE).amendments[-1].at <= datetime.now(UTC)
    with sound.workspace.database.read() as session:
        for row in session.scalars(select(tables.EvaluationRow)):
            assert max(row.at, row.withdrawn_at or row.at) <= now


def test_an_exported_folder_has_them(
    stocked: Registry, sound: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    bare = stocked.exchange.export(TWO, tmp_path / "bare")
    assert '"evaluations"' not in (bare.path / "adapter_metadata.json").read_text()
    stocked.adapters.amend(ONE, val_loss=0.061, date="20260114", reason="typo")
    stocked.evaluations.record(ONE, {"acc": 0.5}, dataset="courses", split="test", harness="ours", seed=3)
    stocked.evaluations.record(ONE, Path(__file__).parents[1] / "comparison/results/lm_eval_0.4.13.json")
    folder = stocked.exchange.export(ONE, tmp_path / "out").path
    assert "tester" not in (folder / "adapter_metadata.json").read_text()
    sound.bases.add(tiny_base, name="tiny")
    for created in (True, False):
        view = sound.exchange.import_folder(folder)
        assert (view.created, view.name, view.date, view.val_loss) == (created, ONE, "20260114", 0.061)
        here, there = (
            (
                [{**each.to_dict(), "at": "", "by": ""} for each in registry.evaluations.list(ONE)],
                [(each.field, each.to, each.reason) for each in registry.adapters.show(ONE).amendments],
            )
            for registry in (stocked, sound)
        )
        assert here == there
        assert len(here[0]) == 7
    with sound.workspace.database.read() as session:
        assert len(events.history(session, kind="adapter", subject=ONE, action="adapter.received")) == 1


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


QUERY = "model.layers.0.self_attn.q_proj"
SWITCH = "model.layers.0.mlp.switch_mlp.up_proj"


@pytest.mark.parametrize(
    ("widths", "bits", "fits"),
    [
        ({QUERY: 160}, 4, False),
        ({"model.layers.0.mlp.down_proj": 256, QUERY: 1}, 4, False),
        ({SWITCH: 64}, 4, False),
        # Widths of modules that the record does not have, or of plain numbers, do not matter.
        ({QUERY: 128, "elsewhere": 3}, 4, True),
        ({QUERY: 99, "elsewhere": 3}, None, True),
    ],
    ids=["wider", "one number", "a switch layer", "quantised", "plain"],
)
def test_only_a_calibration_that_fits_its_base_is_taken(
    sqlite_registry: Registry,
    other: Registry,
    other_home: Path,
    tmp_path: Path,
    widths: dict[str, int],
    bits: int | None,
    fits: bool,
) -> None:
    if SWITCH in widths:
        base = tiny_architectures.make_architecture(tmp_path / "base", "qwen3_moe", bits=4, group_size=32)
    else:
        base = tiny_models.make_base(tmp_path / "base", bits=bits, group_size=32, layers=1)
    other.bases.add(base, name="four")
    made = put_calibration(other, "four", widths)
    if fits:
        sqlite_registry.exchange.pull("four", other_home)
    else:
        with pytest.raises(BadInputError) as caught:
            sqlite_registry.exchange.pull("four", other_home)
        assert [*widths][-1] in caught.value.message and caught.value.hint
    taken = [each.digest for each in sqlite_registry.bases.show("four").calibrations]
    assert taken == ([made] if fits else [])
    assert sqlite_registry.upkeep.audit().ok


@pytest.fixture
def key(stocked: Registry, other: Registry, other_home: Path) -> str:
    """The key of a published fused artifact that is in both registries."""
    made = stocked.fused.fuse(ONE, FuseRequest("keep", accept_loss=True), publish="full")
    stocked.exchange.push(ONE, other_home, fused=True)
    return str(made["key"])


@pytest.mark.parametrize("kind", ["adapter", "fused"])
def test_a_later_signature_comes_later(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, key: str, kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    subject = {"adapter": ONE, "fused": key}[kind]
    number = stocked.trust.sign(subject, write_pair(tmp_path, "ann").signing()).key_id
    for dry_run in (True, False):
        done = stocked.exchange.push(ONE, other_home, fused=True, dry_run=dry_run)
        changed = [(item.kind, item.state, item.bytes) for item in done.items_ if item.state != "present"]
        assert changed == [(kind, "completed", 0)]
    event = other.upkeep.log()[-1]
    assert (event["action"], event["detail"]["added"]) == (f"{kind}.received", ["signature"])
    with other.workspace.database.read() as session:
        assert [row.key_id for row in session.scalars(select(tables.SignatureRow))] == [number]
    again = stocked.exchange.push(ONE, other_home, fused=True)
    assert {item.state for item in again.items_} == {"present"}
    assert other.upkeep.audit().ok
    monkeypatch.setattr(updates, "SIGNATURES", 1)
    stocked.trust.sign(subject, write_pair(tmp_path, "bob").signing())
    with pytest.raises(BadInputError):
        stocked.exchange.push(ONE, other_home, fused=True)


def test_a_signature_that_cannot_be_one_is_not_missing(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, key: str
) -> None:
    ann, eve = write_pair(tmp_path, "ann"), write_pair(tmp_path, "eve")
    trusted = other.trust.add_key("ann", ann.public, ["*#prod"])
    made = stocked.trust.sign(ONE, eve.signing())
    for values in ({"key_id": trusted["key_id"]}, {"key_id": "0" * 64}, {"scheme": "other"}):
        with stocked.workspace.database.write() as session:
            row = session.scalars(select(tables.SignatureRow)).one()
            row.key_id, row.scheme = made.key_id, made.scheme
            for name, value in values.items():
                setattr(row, name, value)
        assert {item.state for item in stocked.exchange.push(ONE, other_home).items_} == {"present"}
    assert other.trust.signatures(ONE)["signatures"] == []


def test_signature_of_a_trusted_key_replaces_one_that_only_names_it(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path
) -> None:
    ceo, eve = write_pair(tmp_path, "ceo"), write_pair(tmp_path, "eve")
    named, row = stocked.trust.sign(TWO, ceo.signing()).key_id, tables.SignatureRow
    stocked.trust.sign(ONE, eve.signing())
    with stocked.workspace.database.write() as session:
        forged = session.scalars(select(row).where(row.key_id != named)).one()
        forged.envelope, forged.key_id = forged.envelope.replace(forged.key_id, named), named
    stocked.exchange.push(ONE, other_home)
    other.trust.add_key("ceo", ceo.public, ["*#prod"])
    assert [each.signer for each in other.trust.signatures(ONE).signatures] == [None]
    with stocked.workspace.database.write() as session:
        session.delete(session.scalars(select(row).where(row.envelope == forged.envelope)).one())
    stocked.trust.sign(ONE, ceo.signing())
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", None)]
    assert [each.signer for each in other.trust.signatures(ONE).signatures] == ["ceo"]
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", None)]


def test_facts_of_a_dataset_do_not_come_without_it(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.exchange.push(ONE, other_home)
    sound.adapters.amend(ONE, clear=["dataset"], reason="unknown")
    stocked.adapters.amend(ONE, dataset_revision="v2", note="new", reason="sheet")
    assert states(stocked.exchange.push(ONE, other_home)) == [("completed", "keeps its own dataset_revision")]
    shown = sound.adapters.show(ONE)
    assert (shown.dataset, shown.dataset_revision, shown.note) == (None, None, "new")
    assert states(stocked.exchange.push(ONE, other_home)) == [("present", "keeps its own dataset_revision")]


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
