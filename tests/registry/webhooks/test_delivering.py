"""Deliveries to real receivers that fail in every way: each event arrives once they are back, and in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ports import free_port
from sqlalchemy import update
from waiting import wait_until
from webhook_receiver import ANSWERS, Receiver, up

from fusery.registry import Registry, tables
from fusery.registry.database import leases
from fusery.registry.database.owner import Owner
from fusery.registry.errors import DatabaseUnavailableError, UnknownReferenceError
from fusery.registry.webhooks.addresses import Target
from fusery.registry.webhooks.backoff import Backoff
from fusery.registry.webhooks.deliverer import Deliverer, NoWebhookSecretError
from fusery.registry.webhooks.delivering import Manner, deliver, run
from fusery.registry.webhooks.passing import retry, skip
from fusery.registry.webhooks.sending import Answer, post
from fusery.storage.progress import Reporter

SECRET = "0123456789abcdef0123456789abcdef"
QUICK = Manner(
    deliverer=Deliverer((SECRET.encode(),), private=True),
    backoff=Backoff(first=0.01, most=0.02),
    seconds=0.7,
)
Happen = Callable[..., None]

TROUBLES = {
    "error": "it answered 500",
    "unknown": "it answered 404",
    "redirect": "it answered 302, and redirections are not followed",
    "not http": "what it answered is not HTTP",
    "close": "it closed the connection",
    "long headers": "what it answered is not HTTP",
    "hang": "no answer within 0.7 s",
    "a byte at a time": "no answer within 0.7 s",
}


def add(registry: Registry, receiver: Receiver, *actions: str, **more: object) -> None:
    registry.webhooks.add(receiver.url, actions or ("adapter.*",), name="ci", allow_private=True, **more)  # type: ignore[arg-type]


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
    assert first.document["type"] == "adapter.registered"
    assert first.document["hook"] == "ci"
    assert first.document["id"] == first.headers["webhook-id"]
    assert first.headers["content-type"] == "application/json"
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 60
    shown = registry.webhooks.show("ci")
    assert (shown.state, shown.waiting, shown.position) == ("active", 0, entries[-1].seq)
    assert shown.delivered_at is not None
    assert registry.webhooks.deliver() == []


def test_only_what_was_asked_for_arrives(registry: Registry, receiver: Receiver, happen: Happen) -> None:
    add(registry, receiver, "alias.moved", "adapter.*", tasks=["course_*"])
    happen(action="alias.moved", kind="alias", subject="course_rec#prod")
    happen(action="alias.refused", kind="alias", subject="course_rec#prod")
    happen(action="alias.moved", kind="alias", subject="search#prod")
    happen(subject="search_v1_20260115")
    happen(action="base.added", kind="base", subject="ab" * 32)
    happen(250, subject="search_v1_20260115")
    happen(subject="course_rec_v7_20260115")
    assert registry.webhooks.show("ci").waiting == 2
    registry.webhooks.deliver()
    assert [each.document["data"]["subject"] for each in receiver.requests] == [
        "course_rec#prod",
        "course_rec_v7_20260115",
    ]
    happen(action="base.added", kind="base", subject="ab" * 32)
    assert registry.webhooks.deliver() == []
    assert registry.webhooks.show("ci").position == registry.upkeep.log(limit=1)[0].seq


@pytest.mark.parametrize("manner", TROUBLES)
def test_a_receiver_in_trouble_gets_everything_in_order_once_it_is_well(
    manner: str, registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(3)
    receiver.manner = manner
    started = time.monotonic()
    [failed] = deliver(registry.workspace, manner=QUICK)
    assert time.monotonic() - started < 10
    assert (failed.delivered, failed.error) == ((), TROUBLES[manner])
    shown = registry.webhooks.show("ci")
    assert (shown.state, shown.attempts, shown.waiting, shown.error) == ("failing", 1, 3, TROUBLES[manner])
    assert shown.failing == registry.upkeep.log(action="adapter.registered")[0].seq
    assert shown.next_attempt is not None
    assert not any(request.path == "/elsewhere" for request in receiver.requests)
    receiver.manner = "well"
    until_delivered(registry, receiver, 3)
    assert receiver.taken == [each.seq for each in registry.upkeep.log(action="adapter.registered")]
    assert registry.webhooks.show("ci").attempts == 0
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert ids[0] == ids[1]  # the same whenever it is tried


def test_a_huge_answer_is_not_read(registry: Registry, receiver: Receiver, happen: Happen) -> None:
    add(registry, receiver)
    happen(2)
    receiver.manner = "huge"
    assert len(deliver(registry.workspace, manner=QUICK)[0].delivered) == 2
    assert len(ANSWERS["huge"]) > 1 << 20


def test_a_receiver_that_is_down_gets_everything_once_it_is_back(registry: Registry, happen: Happen) -> None:
    receiver = Receiver(free_port())
    add(registry, receiver)
    happen(3)
    assert deliver(registry.workspace, manner=QUICK)[0].error == "nothing listens at its port"
    with up(receiver):
        until_delivered(registry, receiver, 2)
    happen(2)
    assert deliver(registry.workspace, manner=QUICK)[0].error is not None
    with up(receiver):
        until_delivered(registry, receiver, 5)
    assert receiver.taken == [each.seq for each in registry.upkeep.log(action="adapter.registered")]


def test_nothing_is_tried_before_its_time(registry: Registry, receiver: Receiver, happen: Happen) -> None:
    slow = replace(QUICK, backoff=Backoff(first=100.0, chance=lambda: 0.0))
    add(registry, receiver)
    happen(2)
    receiver.manner = "error"
    [failed] = deliver(registry.workspace, manner=slow)
    assert deliver(registry.workspace, manner=slow) == []
    assert len(receiver.requests) == 1
    with registry.workspace.database.write() as session:
        assert failed.next_attempt is not None
        soon = failed.next_attempt - timedelta(seconds=200)
        session.execute(update(tables.WebhookDelivery).values(next_at=soon))
    [failed] = deliver(registry.workspace, manner=slow)
    with registry.workspace.database.read() as session:
        now = registry.workspace.database.utcnow(session)
    assert failed.next_attempt is not None
    assert 190 < (failed.next_attempt - now).total_seconds() <= 200
    assert registry.webhooks.show("ci").attempts == 2


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
    [told] = registry.upkeep.log(action="webhook.disabled")
    assert (told.subject, told.detail["reason"]) == ("ci", "it answered 410: it is gone")
    assert retry(registry.workspace, "ci", manner=QUICK).state == "active"
    assert len(receiver.taken) == 2
    assert [each.subject for each in registry.upkeep.log(action="webhook.enabled")] == ["ci"]
    assert registry.upkeep.audit_chain().ok


def test_retry_tries_now_or_leaves_it_to_who_knows_the_secret(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    slow = replace(QUICK, backoff=Backoff(first=1000.0))
    add(registry, receiver)
    happen()
    receiver.manner = "error"
    deliver(registry.workspace, manner=slow)
    assert retry(registry.workspace, "ci", manner=slow).attempts == 2
    receiver.manner = "well"
    stranger = replace(slow, deliverer=Deliverer())
    assert retry(registry.workspace, "ci", manner=stranger).next_attempt is None
    assert receiver.taken == []
    assert len(deliver(registry.workspace, manner=slow)[0].delivered) == 1


def test_an_event_that_is_not_taken_is_passed_over_for_a_reason(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(2)
    first, second = registry.upkeep.log(action="adapter.registered")
    receiver.manner = "error"
    deliver(registry.workspace, manner=QUICK)
    skipped = skip(registry.workspace, "ci", reason="it cannot be read there")
    assert (skipped.seq, skipped.action) == (first.seq, "adapter.registered")
    receiver.manner = "well"
    deliver(registry.workspace, manner=QUICK)
    assert receiver.taken == [second.seq]
    [told] = registry.upkeep.log(action="webhook.skipped")
    assert told.detail == {
        "seq": first.seq,
        "action": first.action,
        "hash": first.hash,
        "reason": "it cannot be read there",
    }


def test_a_webhook_that_hangs_holds_up_no_other(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    other = Receiver(free_port(), manner="hang")
    with up(other):
        registry.webhooks.add(other.url, "adapter.*", name="a", allow_private=True)
        add(registry, receiver)
        happen(3)
        stop = threading.Event()
        thread = threading.Thread(
            target=run,
            args=(registry.workspace,),
            kwargs={"stop": stop, "manner": replace(QUICK, seconds=8.0), "pause": 0.05},
        )
        started = time.monotonic()
        thread.start()
        try:
            wait_until(lambda: len(receiver.taken) == 3)
            assert time.monotonic() - started < 8
            happen(1)
            wait_until(lambda: len(receiver.taken) == 4)
            other.over.set()
        finally:
            stop.set()
            thread.join()
    assert receiver.taken == sorted(receiver.taken)


def test_without_a_secret_nothing_is_delivered(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen()
    monkeypatch.delenv("FUSERY_WEBHOOK_SECRET")
    for call in (
        registry.webhooks.deliver,
        lambda: registry.webhooks.run(stop=threading.Event()),
        lambda: registry.webhooks.key("ci"),
    ):
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


def test_what_there_is_not_is_not_delivered_to(registry: Registry) -> None:
    with pytest.raises(UnknownReferenceError, match="no webhook 'ci'"):
        registry.webhooks.deliver("ci")


def test_two_deliverers_at_once_keep_the_order_and_send_nothing_twice(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(30)
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=run, args=(registry.workspace,), kwargs={"stop": stop, "manner": QUICK, "pause": 0.01}
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        happen(10)
        wait_until(lambda: len(receiver.taken) >= 40)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert receiver.taken == [each.seq for each in registry.upkeep.log(action="adapter.registered")]


def test_who_holds_the_lease_delivers_alone(registry: Registry, receiver: Receiver, happen: Happen) -> None:
    add(registry, receiver)
    happen()
    with registry.workspace.database.read() as session:
        uid = session.query(tables.Webhook).one().uid
    lease = leases.acquire(registry.workspace.database, f"webhook {uid}", Owner.current())
    assert isinstance(lease, leases.Lease)
    assert deliver(registry.workspace, manner=QUICK) == []
    with registry.workspace.database.write() as session:
        lease.publish(session)
    assert len(deliver(registry.workspace, manner=QUICK)[0].delivered) == 1


def test_an_event_that_is_passed_over_while_it_is_sent_is_passed_over(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(2)

    def meanwhile(target: Target, headers: dict[str, str], body: bytes, **how: object) -> Answer:
        answer = post(target, headers, body, **how)  # type: ignore[arg-type]
        if len(receiver.taken) == 1:
            skip(registry.workspace, "ci", reason="in a hurry")
        return answer

    said: list[str] = []
    deliver(registry.workspace, manner=replace(QUICK, post=meanwhile), reporter=Reporter(said.append))
    assert "was passed over" in said[0]
    deliver(registry.workspace, manner=QUICK)
    assert receiver.taken == [each.seq for each in registry.upkeep.log(action="adapter.registered")]


_KILLED = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from fusery.registry import Registry
from fusery.registry.settings.settings import Settings
from fusery.registry.webhooks.delivering import Manner, deliver
from fusery.registry.webhooks.sending import post
from fusery.registry.workspace import Workspace

def killed(*args, **how):
    answer = post(*args, **how)
    assert not answer.error, answer
    os.kill(os.getpid(), signal.SIGKILL)

settings = Settings(home=Path(sys.argv[1]), database_url=sys.argv[2])
with Registry(Workspace(settings)) as registry:
    deliver(registry.workspace, manner=replace(Manner(), post=killed))
"""


def test_a_deliverer_that_is_killed_before_it_could_note_the_answer_delivers_again_in_order(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen(3)
    settings = registry.workspace.settings
    command = [sys.executable, "-P", "-c", _KILLED, str(settings.home), settings.database_url]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    first, second, third = (each.seq for each in registry.upkeep.log(action="adapter.registered"))
    assert receiver.taken == [first]
    deliver(registry.workspace, manner=QUICK)
    assert receiver.taken == [first, first, second, third]
    assert receiver.requests[0].headers["webhook-id"] == receiver.requests[1].headers["webhook-id"]


def test_a_database_that_goes_away_is_waited_for(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen()
    database, said = registry.workspace.database, list[str]()
    stop, read = threading.Event(), database.read
    failures = iter(range(3))

    def away() -> object:
        if next(failures, None) is not None:
            raise DatabaseUnavailableError("the database does not answer")
        return read()

    database.read = away  # type: ignore[method-assign, assignment]
    thread = threading.Thread(
        target=run,
        args=(registry.workspace,),
        kwargs={"stop": stop, "manner": QUICK, "pause": 0.01, "reporter": Reporter(said.append)},
    )
    thread.start()
    try:
        wait_until(lambda: receiver.taken)
    finally:
        stop.set()
        thread.join()
    assert said == ["the database does not answer"]


def test_what_keeps_one_from_being_delivered_to_is_told_by_its_name(
    registry: Registry, receiver: Receiver, happen: Happen, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, receiver)
    happen()

    def away(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("fusery.registry.webhooks.delivering.leases.acquire", away)
        [failed] = deliver(registry.workspace, manner=QUICK)
    assert (failed.name, failed.error, failed.next_attempt) == ("ci", "the database does not answer", None)
    assert not failed.disabled
    assert registry.webhooks.show("ci").state == "active"


def test_an_error_that_nobody_thought_of_is_told_and_tried_again(
    registry: Registry, receiver: Receiver, happen: Happen
) -> None:
    add(registry, receiver)
    happen()
    said, stop = list[str](), threading.Event()

    def broken(*arguments: object, **how: object) -> Answer:
        if not said:
            raise AssertionError("with a secret in it")
        return post(*arguments, **how)  # type: ignore[arg-type]

    thread = threading.Thread(
        target=run,
        args=(registry.workspace,),
        kwargs={
            "stop": stop,
            "manner": replace(QUICK, post=broken),
            "pause": 0.01,
            "reporter": Reporter(said.append),
        },
    )
    thread.start()
    try:
        wait_until(lambda: receiver.taken)
    finally:
        stop.set()
        thread.join()
    assert set(said) == {"webhook ci was not delivered to: AssertionError"}


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
