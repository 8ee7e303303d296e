"""Limits on the contents of a package about one adapter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from many_rows import add_rows

from fusery.registry import Registry, tables
from fusery.registry.database import limits
from fusery.registry.database.limits import EVALUATIONS, REMARKS
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.wire import bytes_of

ONE = "course_rec_v1_20260115"


@pytest.fixture
def sound(other: Registry) -> Iterator[Registry]:
    """The other registry, which must be sound at the end."""
    yield other
    assert other.upkeep.audit().ok, other.upkeep.audit().problems


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Yank", {"reason": "bad data", "lifted_by": "tester"}),
        ("Amendment", {"field": "note"}),
        ("Evaluation", {"value": 0.5}),
    ],
)
def test_package_over_a_limit_is_refused(
    stocked: Registry, sound: Registry, other_home: Path, kind: str, values: dict[str, Any]
) -> None:
    limit = getattr(limits, f"{kind.upper()}S")
    add_rows(stocked, kind, limit + 1, **values)
    with pytest.raises(BadInputError) as caught:
        stocked.exchange.push(ONE, other_home)
    assert f"at most {limit:,}" in caught.value.message
    assert sound.adapters.list() == []


def test_packages_together_cannot_exceed_a_limit(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.exchange.push(ONE, other_home)
    add_rows(sound, "Evaluation", EVALUATIONS, value=0.5)
    stocked.evaluations.record(ONE, {"acc": 0.5})
    with pytest.raises(BadInputError) as caught:
        stocked.exchange.push(ONE, other_home)
    assert f"at most {EVALUATIONS:,}" in caught.value.message


def test_remarks_leave_room_for_corrections(stocked: Registry, sound: Registry, other_home: Path) -> None:
    """Every publisher may change notes and tags."""
    stocked.exchange.push(ONE, other_home)
    add_rows(sound, "Amendment", REMARKS, field="note")
    with pytest.raises(BadInputError, match="notes and tags"):
        sound.adapters.amend(ONE, note="one more")
    sound.adapters.amend(ONE, val_loss=0.2, reason="typo")


def test_long_remarks_do_not_keep_an_adapter_from_being_pulled(stocked: Registry) -> None:
    """Each of these characters has twelve bytes in a package, and each entry of the log has them once more."""
    long = "\U0001f600" * 9_990
    for number in range(300):
        try:
            stocked.adapters.amend(ONE, note=str(number), reason=long)
        except BadInputError:
            break
    document = stocked.transfers.package(ONE)
    assert len(bytes_of(document)) < 8 << 20
    [adapter] = [item for item in document["items"] if item["kind"] == "adapter"]
    assert adapter["amendments"]
    assert [event["detail"].count(str(len(adapter["amendments"]) - 1)) for event in adapter["events"]][-1]


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


def test_package_at_a_limit_can_be_pulled(stocked: Registry, other: Registry, other_home: Path) -> None:
    # The log entry of such a package has a seal for each evaluation.
    add_rows(stocked, "Evaluation", EVALUATIONS, value=0.5)
    stocked.exchange.push(ONE, other_home)
    done = stocked.exchange.pull(ONE, other_home)
    assert {item.state for item in done.items_} == {"present"}


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
