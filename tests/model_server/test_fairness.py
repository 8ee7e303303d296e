"""Quotas, fair queues, and threads that take turns between tenants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from functools import partial
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.model_server import fairness
from fusery.model_server.fairness import Quota, TenantExecutor, TenantQueues

pytestmark = pytest.mark.timing

OWNERS = st.sampled_from("abcd")


def test_who_came_first_shuts_nobody_out() -> None:
    shares = Quota()
    while shares.has_room("a", 8):
        shares.take("a")
    assert shares.of("a") == 8
    for owner, share in (("b", 4), ("c", 2)):  # 8 for two, and then for three
        while shares.has_room(owner, 8):
            shares.take(owner)
        assert shares.of(owner) == share
    assert not shares.has_room("a", 8)
    shares.give("a", 8)
    assert len(shares) == 2
    assert shares.has_room("a", 8)


def test_somebody_new_gets_one_large_thing_in() -> None:
    shares = Quota()
    shares.take("a", 100)
    assert not shares.has_room("a", 100)
    assert shares.has_room("b", 100, 90)
    shares.take("b", 90)
    assert not shares.has_room("b", 100)
    assert not shares.has_room("c", 100, 90)
    assert shares.has_room("c", 100, 10)


@given(st.integers(1, 20), st.lists(st.tuples(OWNERS, st.integers(1, 5), st.booleans()), max_size=80))
def test_no_room_is_more_than_twice_full(room: int, moves: list[tuple[str, int, bool]]) -> None:
    shares, held = Quota(), Counter[str]()
    for owner, count, give in moves:
        if give and held[owner] >= count:
            shares.give(owner, count)
            held[owner] -= count
        elif shares.has_room(owner, room, count):
            shares.take(owner, count)
            held[owner] += count
        assert shares.total == held.total() <= 2 * room
        assert len(shares) == len(+held)
        if shares.total < room:
            assert all(shares.has_room(other, room) for other in "abcd")


@given(st.lists(st.tuples(OWNERS, st.booleans()), max_size=60))
def test_turns_go_round_and_lose_nothing(moves: list[tuple[str, bool]]) -> None:
    turns: TenantQueues[str, int] = TenantQueues()
    waiting: dict[str, list[int]] = {}
    passed: Counter[str] = Counter()  # how often somebody was passed over since they came
    for number, (owner, push) in enumerate(moves):
        if push:
            turns.push(owner, number)
            waiting.setdefault(owner, []).append(number)
        elif (found := turns.pop()) is None:
            assert waiting == {}
        else:
            chosen, item = found
            assert waiting[chosen].pop(0) == item
            passed.update(other for other in waiting if other != chosen)
            del passed[chosen]
            if not waiting[chosen]:
                del waiting[chosen]
            assert max(passed.values(), default=0) < 4
        assert turns._queues.keys() == waiting.keys()
        assert sorted(turns) == sorted(chain.from_iterable(waiting.values()))
        assert len(turns) == sum(map(len, waiting.values()))


def test_who_holds_least_is_next() -> None:
    turns: TenantQueues[str, str] = TenantQueues()
    held = Quota()
    for owner, item in (("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")):
        turns.push(owner, item)
    held.take("a", 2)
    held.take("b", 1)
    assert turns.pop(held.of) == ("c", "c1")
    assert turns.pop(held.of, lambda owner: owner != "b") == ("a", "a1")
    assert turns.remove("b", "b1")
    assert not turns.remove("b", "b1")
    assert turns.pop(held.of, lambda owner: owner == "b") is None
    assert turns.pop() == ("a", "a2")
    assert turns.pop() is None


class Busy:
    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.go_on.wait(60)


def test_turns_go_round_by_tenant() -> None:
    done, busy = list[str](), Busy()

    async def run() -> None:
        desk = TenantExecutor(lambda: ())
        tasks = [asyncio.create_task(desk.run("flood", busy))]
        await asyncio.to_thread(busy.began.wait, 60)
        for owner, count in (("flood", 20), ("other", 3)):
            for text in (f"{owner} {number}" for number in range(count)):
                tasks.append(asyncio.create_task(desk.run(owner, partial(done.append, text))))
            await asyncio.sleep(0)
        busy.go_on.set()
        await asyncio.gather(*tasks)
        desk.close()

    asyncio.run(run())
    assert done[:6] == ["flood 0", "other 0", "flood 1", "other 1", "flood 2", "other 2"]
    assert len(done) == 23


def test_who_takes_long_rests_while_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made ready while both want something, a tenant with long work gets one in some of the other's."""
    monkeypatch.setattr(fairness, "REST", 10**6)
    done: list[str] = []
    crowded = True

    async def run() -> None:
        nonlocal crowded
        desk = TenantExecutor(lambda: ("flood", "a") if crowded else ())

        def long() -> None:
            done.append("flood")
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass

        flood = [asyncio.create_task(desk.run("flood", long)) for _ in range(3)]
        for owner in "abcd":  # each of whom rests, too
            await desk.run(owner, lambda: done.append("other"))
        assert done.count("flood") == 1
        crowded = False
        monkeypatch.setattr(fairness, "AWAY_SECONDS", 0.0)
        await asyncio.gather(*flood)
        desk.close()

    asyncio.run(run())
    assert done.count("flood") == 3


def test_who_is_gone_is_dropped() -> None:
    done, first = list[int](), Busy()

    async def run() -> None:
        desk = TenantExecutor(lambda: "ab")
        busy = asyncio.create_task(desk.run("a", first))
        await asyncio.to_thread(first.began.wait, 60)
        waiting = [asyncio.create_task(desk.run("a", partial(done.append, n))) for n in range(50)]
        await asyncio.sleep(0)
        assert len(desk._queue) == 50
        for task in (busy, *waiting[:-1]):
            task.cancel()
        await asyncio.gather(busy, *waiting[:-1], return_exceptions=True)
        assert len(desk._queue) == 1
        first.go_on.set()
        await waiting[-1]
        desk.close()

    asyncio.run(run())
    assert done == [49]


def test_what_goes_wrong_is_told_and_the_desk_goes_on() -> None:
    async def run() -> int:
        desk = TenantExecutor(lambda: ())
        with pytest.raises(ZeroDivisionError):
            await desk.run("a", lambda: 1 // 0)
        found = await desk.run("a", lambda: 7)
        desk.close()
        return found

    assert asyncio.run(run()) == 7


@pytest.mark.parametrize(("owners", "together"), [(("a",), 2), (("a", "b"), 1)])
def test_nobody_has_all_threads_while_there_are_others(owners: tuple[str, ...], together: int) -> None:
    lock, running, most = threading.Lock(), 0, 0
    both = threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == together:
                both.set()
        assert both.wait(60)
        with lock:
            running -= 1

    async def run() -> None:
        desk = TenantExecutor(lambda: owners, threads=2)
        await asyncio.gather(*(desk.run("a", work) for _ in range(4)))
        desk.close()

    asyncio.run(run())
    assert most == together
