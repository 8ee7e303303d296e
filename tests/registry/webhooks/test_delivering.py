"""Deliveries to real receivers that fail in every way: each event arrives once they are back, and in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import SplitResult

import pytest
from programs import free_port
from sqlalchemy import update
from waiting import wait_until
from webhook_receiver import Receiver, up

from fusery.registry import Registry, tables
from fusery.registry.database import leases
from fusery.registry.errors import DatabaseUnavailableError
from fusery.registry.webhooks import delivering
from fusery.registry.webhooks.delivering import Manner, deliver, retry, run
from fusery.registry.webhooks.hooks import skip
from fusery.registry.webhooks.sending import (
    Deliverer,
    DeliveryAnswer,
    NoWebhookSecretError,
    post,
)
from fusery.storage.progress import Reporter

pytestmark = pytest.mark.timing

SECRET = "0123456789abcdef0123456789abcdef"
QUICK = Manner(Deliverer((SECRET.encode(),), private=True), first=0.01, most=0.02, seconds=60)
IMPATIENT = replace(QUICK, seconds=0.5)
"""Where no answer comes: on a busy machine a good one may take longer."""
Happen = Callable[..., None]

TROUBLES = {
    "error": "it answered 500",
    "redirect": "it answered 302, and redirections are not followed",
    "not http": "it gave no valid HTTP answer",
    "close": "it gave no valid HTTP answer",
    "long headers": "it gave no valid HTTP answer",
    "hang": "no answer within 0.5 s",
    "a byte at a time": "no answer within 0.5 s",
}


def add(registry: Registry, receiver: Receiver, *actions: str, **more: object) -> None:
    registry.webhooks.add(receiver.url, actions or ("adapter.*",), name="ci", allow_private=True, **more)  # type: ignore[arg-type]


def registered(registry: Registry) -> list[int]:
    return [each.seq for each in registry.upkeep.log(action="adapter.registered")]


@contextmanager
def running(registry: Registry, manner: Manner = QUICK, count: int = 1) -> Iterator[list[str]]:
    stop, said = threading.Event(), list[str]()
    how = {"stop": stop, "manner": manner, "pause": 0.01, "reporter": Reporter(said.append)}
    threads = [threading.Thread(target=run, args=(registry.workspace,), kwargs=how) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until_delivered(registry: Registry, receiver: Receiver, count: int) -> None:
    def done() -> bool:
        deliver(registry.workspace, manner=QUICK)
        return len(receiver.taken) >= count

    wait_until(done, lambda: f"{receiver.taken} of {count}: {registry.webhooks.show('ci')}")


def test_events_arrive_in_order_as_they_are_in_the_log(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    happen(2)
    add(registry, receiver)
    happen(3)
    [done] = registry.webhooks.deliver()
    entries = registry.upkeep.log(action="adapter.registered")[2:]
    assert (done.name, done.error) == ("ci", None)
    assert list(done.delivered) == receiver.taken == [entry.seq for entry in entries]
    first = receiver.requests[0]
    assert first.path == "/hook"
    assert first.document["data"] == entries[0].to_dict()
    assert (first.document["type"], first.document["hook"]) == ("adapter.registered", "ci")
    assert first.document["id"] == first.headers["webhook-id"]
    assert first.headers["content-type"] == "application/json"
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 600
    shown = registry.webhooks.show("ci")
    assert (shown.state, shown.waiting, shown.position) == ("active", 0, entries[-1].seq)
    assert registry.webhooks.deliver() == []


def test_only_what_was_asked_for_arrives(registry: Registry, receiver: Receiver, happen: Happen) -> None:
    add(registry, receiver, "alias.moved", "adapter.*", tasks=["course_*"])
    wanted = ["course_rec#prod", "course_rec_v7_20260115"]
    happen(action="alias.moved", kind="alias", subject=wanted[0])
    happen(action="alias.refused", kind="alias", subject=wanted[0])
    happen(action="alias.moved", kind="alias", subject="search#prod")
    happen(250, subject="search_v1_20260115")
    happen(subject=wanted[1])
    happen(action="base.added", kind="base", subject="ab" * 32)
    assert registry.webhooks.show("ci").waiting == 2
    registry.webhooks.deliver()
    assert [each.document["data"]["subject"] for each in receiver.requests] == wanted
    assert registry.webhooks.deliver() == []
    assert registry.webhooks.show("ci").position == registry.upkeep.log(limit=1)[0].seq


@pytest.mark.parametrize("manner", TROUBLES)
def test_a_receiver_in_trouble_gets_everything_in_order_once_it_is_well(
    manner: str, registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(3)
    receiver.manner = manner
    how = IMPATIENT if "no answer" in TROUBLES[manner] else QUICK
    [failed] = deliver(registry.workspace, manner=how)
    assert (failed.delivered, failed.error) == ((), TROUBLES[manner])
    shown = registry.webhooks.show("ci")
    assert (shown.state, shown.attempts, shown.waiting, shown.error) == ("failing", 1, 3, TROUBLES[manner])
    assert shown.failing == registered(registry)[0]
    assert shown.next_attempt is not None
    assert not any(request.path == "/elsewhere" for request in receiver.requests)
    receiver.manner = "well"
    until_delivered(registry, receiver, 3)
    assert receiver.taken == registered(registry)
    assert registry.webhooks.show("ci").attempts == 0
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert ids[0] == ids[1]  # the same whenever it is tried


def test_a_receiver_that_is_down_gets_everything_once_it_is_back(registry: Registry, happen: Happen) -> None:
    receiver = Receiver(free_port(), manner="huge")  # its answer is not read
    add(registry, receiver)
    happen(3)
    assert deliver(registry.workspace, manner=QUICK)[0].error == "nothing listens at its port"
    with up(receiver):
        until_delivered(registry, receiver, 3)
    assert receiver.taken == registered(registry)


def test_nothing_is_tried_before_its_time(registry: Registry, receiver: Receiver, happen: Happen) -> None:
    slow = replace(QUICK, first=1400.0, most=3600.0)
    add(registry, receiver)
    happen(2)
    receiver.manner = "error"
    [failed] = deliver(registry.workspace, manner=slow)
    assert deliver(registry.workspace, manner=slow) == []
    assert len(receiver.requests) == 1
    with registry.workspace.database.write() as session:
        assert failed.next_attempt is not None
        soon = failed.next_attempt - timedelta(seconds=3000)
        session.execute(update(tables.WebhookDeliveryRow).values(next_at=soon))
    [failed] = deliver(registry.workspace, manner=slow)
    assert failed.next_attempt is not None and failed.next_attempt - soon > timedelta(seconds=3600)
    assert retry(registry.workspace, "ci", manner=slow).attempts == 3
    receiver.manner = "well"
    stranger = replace(slow, deliverer=Deliverer())  # leaves it to who knows the secret
    assert retry(registry.workspace, "ci", manner=stranger).next_attempt is None
    assert receiver.taken == []
    assert len(deliver(registry.workspace, manner=slow)[0].delivered) == 2


def test_a_receiver_that_is_gone_is_disabled_until_somebody_says_otherwise(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(2)
    receiver.manner = "gone"
    [failed] = deliver(registry.workspace, manner=QUICK)
    assert failed.disabled
    receiver.manner = "well"
    assert deliver(registry.workspace, manner=QUICK) == []
    assert registry.webhooks.show("ci").state == "disabled"
    assert [each.subject for each in registry.upkeep.log(action="webhook.disabled")] == ["ci"]
    assert retry(registry.workspace, "ci", manner=QUICK).state == "active"
    assert len(receiver.taken) == 2
    assert len(registry.upkeep.log(action="webhook.enabled")) == 1


def test_a_webhook_that_hangs_holds_up_no_other(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    other = Receiver(free_port(), manner="hang")
    with up(other):
        registry.webhooks.add(other.url, "adapter.*", name="a", allow_private=True)
        add(registry, receiver)
        happen(3)
        with running(registry):
            wait_until(lambda: len(receiver.taken) == 3)
            happen(1)
            wait_until(lambda: len(receiver.taken) == 4)
            assert registry.webhooks.show("a").attempts == 0, "its first attempt goes on"
            other.over.set()
    assert receiver.taken == sorted(receiver.taken)


def test_a_webhook_with_many_events_lets_others_have_their_turn(
    registry: Registry, receiver: Receiver, happen: Happen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "_AT_ONCE", 1)
    monkeypatch.setattr(delivering, "_IN_A_ROW", 1)
    other = Receiver(free_port())
    with up(other):
        registry.webhooks.add(other.url, "adapter.*", name="a", allow_private=True)
        add(registry, receiver)
        happen(3)
        urls = []

        def post(target: Any, *args: Any, **options: Any) -> DeliveryAnswer:
            urls.append(str(target))
            return QUICK.post(target, *args, **options)

        with running(registry, replace(QUICK, post=post)):
            wait_until(lambda: len(urls) == 6)
    assert len(set(urls[:2])) == 2


def test_without_a_secret_nothing_is_delivered(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen()
    monkeypatch.delenv("FUSERY_WEBHOOK_SECRET")
    hooks = registry.webhooks
    for call in (hooks.deliver, lambda: hooks.run(stop=threading.Event()), lambda: hooks.key("ci")):
        with pytest.raises(NoWebhookSecretError):
            call()
    assert receiver.requests == []


def test_who_may_not_reach_private_networks_does_not(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen()
    careful = replace(QUICK, deliverer=replace(QUICK.deliverer, private=False))
    [failed] = deliver(registry.workspace, manner=careful)
    assert failed.error == "its host has the address 127.0.0.1 of a private network"
    assert receiver.requests == []


def test_two_deliverers_at_once_keep_the_order_and_send_nothing_twice(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(12)
    with running(registry, count=3):
        happen(6)
        wait_until(lambda: len(receiver.taken) >= 18)
    assert receiver.taken == registered(registry)


def test_an_event_that_is_passed_over_while_it_is_sent_is_passed_over(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(2)

    def meanwhile(target: SplitResult, headers: dict[str, str], body: bytes, **how: object) -> DeliveryAnswer:
        answer = post(target, headers, body, **how)  # type: ignore[arg-type]
        if len(receiver.taken) == 1:
            skip(registry.workspace, "ci", reason="in a hurry")
        return answer

    said: list[str] = []
    deliver(registry.workspace, manner=replace(QUICK, post=meanwhile), reporter=Reporter(said.append))
    assert said
    deliver(registry.workspace, manner=QUICK)
    assert receiver.taken == registered(registry)


def test_a_database_that_goes_away_is_waited_for(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen()
    database = registry.workspace.database
    read, failures = database.read, iter(range(3))

    def away() -> object:
        if next(failures, None) is not None:
            raise DatabaseUnavailableError("the database does not answer")
        return read()

    database.read = away  # type: ignore[method-assign, assignment]
    with running(registry) as said:
        wait_until(lambda: receiver.taken)
    assert said == ["the database does not answer"]


def test_an_error_that_nobody_thought_of_is_told_and_tried_again(
    registry: Registry, receiver: Receiver, happen: Happen, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, receiver)
    happen()
    away = DatabaseUnavailableError("the database does not answer")
    with monkeypatch.context() as patch:
        patch.setattr(leases, "acquire", Mock(side_effect=away))
        [failed] = deliver(registry.workspace, manner=QUICK)
    assert (failed.name, failed.error, failed.next_attempt) == ("ci", away.message, None)
    assert registry.webhooks.show("ci").state == "active"
    failing = Mock(side_effect=[AssertionError("with a secret in it"), DeliveryAnswer(gone=False)])
    with running(registry, replace(QUICK, post=failing)) as said:
        wait_until(lambda: registry.webhooks.show("ci").waiting == 0)
    assert said == ["webhook ci was not delivered to: AssertionError"]


def test_the_secret_and_the_key_are_in_no_row_entry_or_message(
    registry: Registry, receiver: Receiver, happen: Happen, tmp_path: Path
) -> None:
    added = registry.webhooks.add(receiver.url, "adapter.*", name="ci", allow_private=True)
    assert added.key is not None
    assert added.key == registry.webhooks.key("ci").key
    happen()
    receiver.manner = "error"
    deliver(registry.workspace, manner=QUICK)
    bare = added.key.removeprefix("whsec_")
    texts = [repr(added), repr(QUICK), str(registry.webhooks.show("ci").to_dict())]
    with registry.workspace.database.read() as session:
        for table in tables.metadata.sorted_tables:
            texts += [str(row) for row in session.execute(table.select())]
    texts += [str(request.headers) + request.body.decode() for request in receiver.requests]
    assert not [text for text in texts if bare in text or SECRET in text]
