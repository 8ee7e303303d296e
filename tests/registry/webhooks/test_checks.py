"""The audit reports an edited position of deliveries, and never reports normal deliveries."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from database_facts import forced
from sqlalchemy import delete, update
from webhook_receiver import Receiver

from fusery.registry import Registry, tables
from fusery.registry.webhooks.delivering import CODE

pytestmark = pytest.mark.timing

Happen = Callable[..., None]
"""Writes entries of the log."""


def subjects(registry: Registry) -> list[str]:
    return sorted({problem.subject for problem in registry.upkeep.audit().problems if problem.code == CODE})


def edit(registry: Registry, **values: object) -> None:
    with registry.workspace.database.write() as session:
        session.execute(update(tables.WebhookDeliveryRow).values(**values))


def add(registry: Registry, receiver: Receiver, **more: object) -> None:
    registry.webhooks.add(receiver.url, ["adapter.*"], name="ci", allow_private=True, **more)  # type: ignore[arg-type]


@pytest.fixture
def delivered(registry: Registry, receiver: Receiver, happen: Happen) -> Registry:
    happen(2)
    add(registry, receiver)
    happen(2)
    registry.webhooks.deliver()
    happen(2)
    return registry


POSITION = tables.WebhookDeliveryRow.position


@pytest.mark.parametrize(
    "values",
    [
        {"position": POSITION + 1},
        {"position": POSITION + 1_000_000},
        {"position": POSITION - 4},
        {"attempts": 3},
        {"error": "it answered 500"},
        {"next_at": datetime.now(UTC) + timedelta(days=2), "attempts": 1, "error": "it answered 500"},
        {"next_at": datetime.now(UTC)},
        {"delivered_at": None},
        {"delivered_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"disabled_at": datetime.now(UTC)},
        None,
    ],
)
def test_an_edited_or_removed_row_is_reported(delivered: Registry, values: dict[str, object] | None) -> None:
    if values is None:
        with delivered.workspace.database.write() as session:
            session.execute(delete(tables.WebhookDeliveryRow))
    else:
        edit(delivered, **values)
    assert subjects(delivered) == ["webhook ci"]


def test_position_before_a_skipped_event_is_reported(delivered: Registry) -> None:
    delivered.webhooks.skip("ci", reason="it cannot read it")
    assert subjects(delivered) == []
    edit(delivered, position=POSITION - 1)
    assert subjects(delivered) == ["webhook ci"]


def test_state_in_the_log_is_that_of_the_row(delivered: Registry, happen: Happen) -> None:
    happen(action="webhook.disabled", kind="webhook", subject="ci")
    assert subjects(delivered) == ["webhook ci"]
    edit(delivered, disabled_at=datetime(2026, 1, 5, tzinfo=UTC))
    assert subjects(delivered) == []
    happen(action="webhook.enabled", kind="webhook", subject="ci")
    assert subjects(delivered) == ["webhook ci"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_row_without_a_webhook_is_reported(delivered: Registry) -> None:
    path = delivered.workspace.embedded_path
    assert path is not None
    with forced(path) as connection:
        connection.execute("DELETE FROM webhook")
    assert subjects(delivered) == ["webhook_delivery 1"]
