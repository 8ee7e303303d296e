"""Dates, versions and numbers in packages that cannot be recorded here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fusery.registry import Registry, tables
from fusery.registry.database.guards import lifted
from fusery.registry.errors import BadInputError, RegistryError
from fusery.registry.names import MAX_DECLARED_VERSION

ONE = "course_rec_v1_20260115"
FUTURE = "2999-01-01 00:00:00.000000"
PAST = "1999-01-01 00:00:00.000000"


def write(registry: Registry, *statements: str) -> None:
    """Change a database without fusery."""
    with registry.workspace.database.schema_change() as connection, lifted(connection):
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture
def sound(other: Registry) -> Iterator[Registry]:
    """The other registry, which must be sound and empty at the end."""
    yield other
    assert other.upkeep.audit().ok, other.upkeep.audit().problems


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
    full: Registry, sound: Registry, other_home: Path, change: str
) -> None:
    write(full, *change.split("; "))
    with full.workspace.database.read() as session:
        adapter = session.get(tables.Adapter, 1)
        assert adapter is not None
        name = adapter.name
    with pytest.raises(RegistryError) as caught:
        full.exchange.push(name, other_home)
    assert caught.value.code in ("bad_input", "refused")
    assert sound.adapters.list() == []


def test_small_clock_difference_is_accepted(full: Registry, sound: Registry, other_home: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=20)).strftime("%Y-%m-%d %H:%M:%S.%f")
    write(
        full,
        f"UPDATE evaluation SET at = '{soon}', withdrawn_at = NULL, withdrawn_by = NULL, withdrawn_reason = NULL",
    )
    full.exchange.push(ONE, other_home)
    assert {each.at <= datetime.now(UTC) for each in sound.evaluations.list()} == {True}


def test_yank_and_evaluation_before_registration_are_accepted(
    stocked: Registry, sound: Registry, other_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both registries registered the adapter, this one three days earlier, and measured and yanked it before the other had it.
    stocked.exchange.push(ONE, other_home)
    earlier = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%d %H:%M:%S.%f")
    write(stocked, f"UPDATE adapter SET created_at = '{earlier}'")
    stocked.evaluations.record(ONE, {"acc": 0.5})
    stocked.adapters.yank(ONE, reason="bad data")
    write(stocked, f"UPDATE evaluation SET at = '{earlier}'", f"UPDATE yank SET at = '{earlier}'")
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
    with pytest.raises(BadInputError):
        stocked.adapters.register(
            make_adapter("far", seed=30),
            base="tiny",
            task="far",
            date="20260115",
            version=MAX_DECLARED_VERSION + 1,
        )
    stocked.exchange.push("big", other_home)
    assert sound.adapters.show("big@latest").version == MAX_DECLARED_VERSION + 2
