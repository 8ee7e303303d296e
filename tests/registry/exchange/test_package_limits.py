"""Limits on the contents of a package about one adapter: counts, dates, versions and numbers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from many_rows import add_rows

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, RegistryError
from fusery.registry.exchange import claims, measurements
from fusery.registry.names import MAX_DECLARED_VERSION
from fusery.registry.records import amendments

ONE = "course_rec_v1_20260115"
FUTURE = "2999-01-01 00:00:00.000000"
PAST = "1999-01-01 00:00:00.000000"


@pytest.mark.parametrize(
    ("module", "kind", "values"),
    [
        (claims, "Yank", {"reason": "bad data", "lifted_by": "tester"}),
        (claims, "Evaluation", {"value": 0.5}),
        (amendments, "Amendment", {"field": "note"}),
    ],
    ids=["yanks", "evaluations", "amendments"],
)
def test_package_over_a_limit_is_refused(
    stocked: Registry, sound: Registry, other_home: Path, module: Any, kind: str, values: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, f"{kind.upper()}S", 20)
        add_rows(stocked, kind, 21, **values)
        with pytest.raises(BadInputError) as caught:
            stocked.exchange.push(ONE, other_home)
    assert "at most 20" in caught.value.message
    assert sound.adapters.list() == []


def test_packages_together_cannot_exceed_a_limit(
    stocked: Registry, sound: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "EVALUATIONS", 20)
    stocked.exchange.push(ONE, other_home)
    add_rows(sound, "Evaluation", 20, value=0.5)
    stocked.evaluations.record(ONE, {"acc": 0.5})
    with pytest.raises(BadInputError) as caught:
        stocked.exchange.push(ONE, other_home)
    assert "at most 20" in caught.value.message


def test_signatures_have_a_limit_together(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.exchange.push(ONE, other_home)
    with stocked.workspace.database.write() as session:
        digest = session.get_one(tables.Adapter, 1).digest
        session.add_all(
            tables.Signature(
                subject_kind="adapter", subject_digest=digest, scheme="model-signing", key_id=f"{number:064}",
                envelope="x" * (1 << 20), at=datetime(2026, 1, 2, tzinfo=UTC), by="tester",
            )
            for number in range(3)
        )  # fmt: skip
    with pytest.raises(BadInputError, match="signatures of course_rec"):
        stocked.exchange.push(ONE, other_home)


def test_the_same_yank_with_another_date_is_on_record(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.exchange.push(ONE, other_home)
    with stocked.workspace.database.write() as session:
        adapter = session.get(tables.Adapter, 1)
        assert adapter is not None
        at = adapter.created_at
        session.add_all(
            tables.Yank(adapter_id=1, reason="bad data", at=at + timedelta(seconds=n), by="tester")
            for n in range(10)
        )
    stocked.exchange.push(ONE, other_home)
    with sound.workspace.database.read() as session:
        assert session.query(tables.Yank).count() == 1
    done = stocked.exchange.push(ONE, other_home)
    assert {item.state for item in done.items_} == {"present"}


@pytest.fixture
def full(stocked: Registry) -> Registry:
    """A registry whose first adapter has a row of each kind."""
    stocked.adapters.yank(ONE, reason="bad data")
    stocked.adapters.unyank(ONE)
    stocked.adapters.amend(ONE, val_loss=0.6, reason="typo")
    stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.5})
    stocked.evaluations.withdraw(ONE, "f1", reason="of another adapter")
    return stocked


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE adapter SET created_at = '{FUTURE}'",
        f"UPDATE base_model SET created_at = '{FUTURE}'",
        f"UPDATE yank SET at = '{FUTURE}', lifted_at = '{FUTURE}'",
        f"UPDATE yank SET lifted_at = '{FUTURE}'",
        f"UPDATE yank SET at = '{PAST}'",
        f"UPDATE yank SET lifted_at = '{PAST}'",
        f"UPDATE amendment SET at = '{FUTURE}', since = '{FUTURE}'",
        f"UPDATE amendment SET since = '{PAST}'",
        f"UPDATE evaluation SET at = '{FUTURE}'",
        f"UPDATE evaluation SET at = '{PAST}'",
        f"UPDATE evaluation SET withdrawn_at = '{PAST}' WHERE metric = 'f1'",
        "UPDATE adapter SET val_loss = -1; UPDATE amendment SET after = '-1'",
        "UPDATE adapter SET val_loss = -1; DELETE FROM amendment",
        "UPDATE adapter SET date = '2999-01-01', name = 'course_rec_v1_29990101' WHERE id = 1",
        "UPDATE adapter SET version = 999999999, name = 'course_rec_v999999999_20260115' WHERE id = 1",
        "UPDATE evaluation SET metric = 'lambada.perplexity' WHERE metric = 'acc'",
    ],
)
def test_impossible_dates_and_values_are_refused(
    full: Registry, sound: Registry, other_home: Path, edit: Callable[..., None], change: str
) -> None:
    edit(*change.split("; "))
    with full.workspace.database.read() as session:
        adapter = session.get(tables.Adapter, 1)
        assert adapter is not None
        name = adapter.name
    with pytest.raises(RegistryError) as caught:
        full.exchange.push(name, other_home)
    assert caught.value.code in ("bad_input", "refused")
    assert sound.adapters.list() == []


def test_yank_and_evaluation_before_registration_are_accepted(
    stocked: Registry, sound: Registry, other_home: Path, tmp_path: Path, edit: Callable[..., None]
) -> None:
    # Both registries registered the adapter, this one three days earlier, and measured and yanked it before the other had it.
    stocked.exchange.push(ONE, other_home)
    earlier = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%d %H:%M:%S.%f")
    edit(f"UPDATE adapter SET created_at = '{earlier}'")
    stocked.evaluations.record(ONE, {"acc": 0.5})
    stocked.adapters.yank(ONE, reason="bad data")
    edit(f"UPDATE evaluation SET at = '{earlier}'", f"UPDATE yank SET at = '{earlier}'")
    stocked.exchange.push(ONE, other_home)
    assert {item.state for item in stocked.exchange.push(ONE, other_home).items_} == {"present"}
    created: Any = sound.adapters.show(ONE).created_at
    assert sound.evaluations.list()[0].at >= created
    with Registry.open(tmp_path / "third") as third:
        third.init()
        third.exchange.pull(ONE, other_home)
        assert third.adapters.show(ONE).yanked
        third.adapters.unyank(ONE)
        third.exchange.pull(ONE, other_home)
        assert not third.adapters.show(ONE).yanked


def test_version_over_the_limit_may_follow_an_existing_one(
    stocked: Registry, sound: Registry, other_home: Path, make_adapter: Any
) -> None:
    for seed, version in enumerate((MAX_DECLARED_VERSION, None, None), start=20):
        stocked.adapters.register(
            make_adapter(f"big{seed}", seed=seed), base="tiny", task="big", date="20260115", version=version
        )
    stocked.exchange.push("big", other_home)
    assert sound.adapters.show("big@latest").version == MAX_DECLARED_VERSION + 2
