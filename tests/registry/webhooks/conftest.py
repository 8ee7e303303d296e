"""Fixtures for webhooks: a registry whose deliverer may reach this machine, and events."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from programs import free_port
from webhook_receiver import Receiver, up

from fusery.registry import Registry
from fusery.registry.database import events

SECRET = "0123456789abcdef0123456789abcdef"

Happen = Callable[..., None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("FUSERY_WEBHOOK_PRIVATE", "1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(free_port())
    with up(made):
        yield made


@pytest.fixture
def happen(registry: Registry) -> Happen:
    def write(count: int = 1, **facts: str) -> None:
        facts = {
            "action": "adapter.registered",
            "kind": "adapter",
            "subject": "course_rec_v1_20260115",
        } | facts
        for number in range(count):
            with registry.workspace.database.write() as session:
                events.record(session, **facts, detail={"number": number}, actor="ann")

    return write
