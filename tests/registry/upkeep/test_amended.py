"""The audit holds adapters against their amendments: nothing is changed without one, and a promotion is not overtaken in silence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from kept_registries import KeptStates
from sqlalchemy import text

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.records.references import resolve_adapter
from fusery.registry.upkeep.history import check_amendments, check_history
from fusery.registry.upkeep.records import SealLog, check_records

# What depends on PostgreSQL itself is tested in `registry/database`.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def found(registry: Registry) -> list[tuple[str, str]]:
    with registry.workspace.database.read() as session:
        log = SealLog(session)
        checks = (check_records, check_history, check_amendments)
        return [(each.code, each.subject) for check in checks for each in check(session, log)]


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    """One folder for all tests, emptied for each: what most begin with is made once, and copied there."""
    return kept.empty_place()


@pytest.fixture
def amended(kept: KeptStates, database_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Registry]:
    """A registry in which everything that may be was amended, and some of it twice."""

    def amend(registry: Registry) -> None:
        registry.bases.add(tiny_base, name="tiny")
        for seed, (date, loss) in enumerate((("20260115", 0.61), ("20260201", 0.42)), 1):
            folder = tiny_models.make_adapter(tmp_path / f"made{seed}", tiny_base, seed=seed)
            registry.adapters.register(
                folder, base="tiny", task="course_rec", date=date, val_loss=loss, dataset="courses",
                examples=120 if seed == 1 else None, tags={"team": "search"} if seed == 2 else {},
            )  # fmt: skip
        adapters = registry.adapters
        adapters.amend(ONE, val_loss=0.061, tags={"team": "ads", "run": "1"}, note="first", reason="typo")
        adapters.amend(
            ONE, dataset="catalogue", dataset_revision="v2", examples=7, date="20260114", reason="sheet"
        )
        adapters.amend(ONE, val_loss=0.6, clear=["tag.run", "dataset"], reason="again")
        adapters.amend(TWO, clear=["val_loss", "tag.team"], note="second", reason="wrong split")

    with kept.opened("amended", database_url, amend) as (registry, _):
        yield registry


def test_nothing_is_found_where_amend_did_it(amended: Registry, tmp_path: Path) -> None:
    assert found(amended) == []
    assert amended.upkeep.audit().ok
    assert amended.upkeep.audit((ONE,)).ok
    amended.exchange.export(ONE, tmp_path / "out", form="peft")  # a form that is computed meanwhile
    amended.adapters.amend(ONE, val_loss=0.5, reason="again")
    assert amended.adapters.show(ONE)["renderings"] and found(amended) == []
    with amended.workspace.database.write() as session:
        session.execute(text("UPDATE amendment SET before = '0.7' WHERE id = 1"))
    assert {"record_changed"} <= {problem.code for problem in amended.upkeep.audit((ONE,)).problems}


def write_anew(registry: Registry, reference: str, *, told: bool = False, **values: Any) -> None:
    """Change an adapter as a program does that knows how to seal, and leaves amendments out or makes them up."""
    with registry.workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        if told:
            now = registry.workspace.database.utcnow(session)
            row = tables.AmendmentRow(
                field="val_loss", before="0.99", after="0.01", reason="", at=now, since=now, by="eve"
            )
            adapter.amendments.append(row)
        for name, value in values.items():
            setattr(adapter, name, value)
        events.record(
            session, action="adapter.amended", kind="adapter", subject=adapter.name, detail={}, actor="eve"
        )


@on_sqlite
def test_a_sealed_change_without_an_amendment_is_found(stocked: Registry) -> None:
    write_anew(stocked, ONE, val_loss=0.01)
    assert found(stocked) == [("record_rewritten", f"adapter {ONE}")]
    stocked.adapters.amend(ONE, val_loss=0.02, reason="covered up")
    assert found(stocked) == [("record_rewritten", f"adapter {ONE}")]
    for column, value in (
        ("rank", 7),
        ("alpha", 7),
        ("iterations", 7),
        ("training", {"a": 1}),
        ("note", "x"),
    ):
        write_anew(stocked, TWO, **{column: value})
        with stocked.workspace.database.read() as session:
            [problem] = [each for each in check_history(session, SealLog(session)) if TWO in each.subject]
            entry = events.last(session)
        assert entry is not None and f"entry {entry.seq} " in problem.message


@on_sqlite
def test_a_sealed_amendment_that_does_not_fit_is_found(stocked: Registry) -> None:
    write_anew(stocked, ONE, told=True, val_loss=0.01)
    assert found(stocked) == [("record_rewritten", f"adapter {ONE}")]
    stocked.adapters.amend(TWO, val_loss=0.5, reason="typo")
    write_anew(stocked, TWO, told=True, val_loss=0.01)
    assert ("amendment_unfit", f"adapter {TWO}") in found(stocked)
    write_anew(stocked, ONE, told=True, val_loss=0.3)
    assert ("amendment_unfit", f"adapter {ONE}") in found(stocked)


@pytest.fixture
def guarded(stocked: Registry) -> Registry:
    """A registry in which `prod` went from the first version to the second by its rules."""
    stocked.aliases.set_rules("prod", {"val_loss_within": 0.0, "admission": "no_errors"})
    assert stocked.aliases.promote(ONE, "prod").moved
    assert stocked.aliases.promote(TWO, "prod").moved
    return stocked


@on_sqlite
@pytest.mark.parametrize("reference", [ONE, TWO])
def test_an_amendment_after_a_promotion_is_a_finding(guarded: Registry, reference: str) -> None:
    assert guarded.upkeep.audit().ok
    guarded.adapters.amend(reference, val_loss=0.55, reason="typo")
    report = guarded.upkeep.audit()
    [problem] = report.problems
    assert (problem.code, problem.subject) == ("amended_after_promotion", "alias course_rec#prod")
    assert reference in problem.message
    assert guarded.upkeep.audit((TWO,)).problems == [problem]
    with guarded.workspace.database.read() as session:
        assert list(events.verify_chain(session)) == []
    guarded.aliases.roll_back("course_rec#prod", reason="worse than it was said", emergency=True)
    assert guarded.upkeep.audit().ok


@on_sqlite
def test_an_amendment_of_what_no_rule_judges_by_is_none(stocked: Registry) -> None:
    """Nor is one of the holder of an alias that was set by hand."""
    stocked.aliases.set("staging", ONE)
    stocked.adapters.amend(ONE, val_loss=0.2, reason="typo")
    stocked.aliases.set_rules("prod", {"val_loss_within": 0.0, "admission": "no_errors"})
    assert stocked.aliases.promote(TWO, "prod").moved
    stocked.adapters.amend(TWO, note="x", tags={"team": "ads"}, examples=9, date="20260131", reason="sheet")
    assert stocked.upkeep.audit().ok


@on_sqlite
def test_no_value_of_an_amendment_stops_the_audit(stocked: Registry) -> None:
    """Even where somebody seals what cannot be."""
    values = itertools.product(("val_loss", "date", "tag.a b", "rank"), ("5", '"x"', "{", "[]", "1e999"))
    for number, (field, value) in enumerate(values):
        with stocked.workspace.database.write() as session:
            adapter, at = resolve_adapter(session, ONE), stocked.workspace.database.utcnow(session)
            row = tables.AmendmentRow(
                field=field, before=value, after="null", reason="", at=at, since=at, by="eve"
            )
            adapter.amendments.append(row)
            adapter.val_loss = number / 100
        codes = {code for code, _ in found(stocked)}
        assert "record_rewritten" in codes and codes <= {"record_rewritten", "amendment_unfit"}
