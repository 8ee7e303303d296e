"""The audit reports an edited position of deliveries, and never reports normal deliveries."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, update
from webhook_receiver import Receiver

from fusery.registry import Registry, tables
from fusery.registry.webhooks.backoff import Backoff
from fusery.registry.webhooks.checks import CODE
from fusery.registry.webhooks.delivering import Manner, deliver

Happen = Callable[..., None]
"""Writes entries of the log."""


def subjects(registry: Registry) -> list[str]:
    return sorted({problem.subject for problem in registry.upkeep.audit().problems if problem.code == CODE})


def edit(registry: Registry, **values: object) -> None:
    with registry.workspace.database.write() as session:
        session.execute(update(tables.WebhookDelivery).values(**values))


def add(registry: Registry, receiver: Receiver, **more: object) -> None:
    registry.webhooks.add(receiver.url, ["adapter.*"], name="ci", allow_private=True, **more)  # type: ignore[arg-type]


@pytest.fixture
def delivered(registry: Registry, receiver: Receiver, happen: Happen) -> Registry:
    """A registry with a webhook that has received two of four events."""
    happen(2)
    add(registry, receiver)
    happen(2)
    registry.webhooks.deliver()
    happen(2)
    return registry


def test_deliveries_failures_and_skips_pass_the_audit(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    def passes() -> None:
        assert subjects(registry) == []

    quick = Manner(backoff=Backoff(first=0.01, most=0.02))
    happen(2)
    add(registry, receiver, tasks=["course_*"])
    happen(1, subject="other_v1_20260115")
    passes()
    happen(2)
    registry.webhooks.deliver()
    passes()
    receiver.manner = "error"
    happen(2)
    deliver(registry.workspace, manner=quick)
    assert registry.webhooks.show("ci").attempts > 0
    passes()
    registry.webhooks.skip("ci", reason="it cannot read it")
    passes()
    receiver.manner = "gone"
    edit(registry, next_at=None)
    deliver(registry.workspace, manner=quick)
    assert registry.webhooks.show("ci").state == "disabled"
    passes()
    registry.webhooks.retry("ci")
    passes()


POSITION = tables.WebhookDelivery.position


@pytest.mark.parametrize(
    "values",
    [
        {"position": POSITION + 1},
        {"position": POSITION + 2},
        {"position": POSITION + 1_000_000},
        {"position": POSITION - 4},
        {"attempts": 3},
        {"error": "it answered 500"},
        {"next_at": datetime.now(UTC) + timedelta(days=2)},
        {"delivered_at": None},
        {"delivered_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"delivered_at": datetime.now(UTC) + timedelta(days=2)},
        {"disabled_at": datetime.now(UTC)},
        None,
    ],
)
def test_an_edited_or_removed_row_is_reported(delivered: Registry, values: dict[str, object] | None) -> None:
    if values is None:
        with delivered.workspace.database.write() as session:
            session.execute(delete(tables.WebhookDelivery))
    else:
        edit(delivered, **values)
    assert subjects(delivered) == ["webhook ci"]


def test_position_before_a_skipped_event_is_reported(delivered: Registry) -> None:
    delivered.webhooks.skip("ci", reason="it cannot read it")
    assert subjects(delivered) == []
    edit(delivered, position=POSITION - 1)
    assert subjects(delivered) == ["webhook ci"]
