"""Quotas, fair queues, and threads that take turns between tenants."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.model_server.fairness import TenantExecutor, TenantQueues, has_room

pytestmark = pytest.mark.timing

OWNERS = st.sampled_from("abcd")


def test_who_came_first_shuts_nobody_out() -> None:
    held = Counter[str]()
    # 8 for one owner, 4 for the second, and 2 for the third.
    for owner, share in (("a", 8), ("b", 4), ("c", 2)):
        while has_room(held, owner, 8):
            held[owner] += 1
        assert held[owner] == share
    assert not has_room(held, "a", 8)
    held["a"] = 0
    assert has_room(held, "a", 8)
    # Somebody new gets one large thing in.
    held = Counter({"a": 100})
    assert not has_room(held, "a", 100)
    assert has_room(held, "b", 100, 90)
    held["b"] += 90
    assert not has_room(held, "b", 100)
    assert not has_room(held, "c", 100, 90)
    assert has_room(held, "c", 100, 10)


@given(st.integers(1, 20), st.lists(st.tuples(OWNERS, st.integers(1, 5), st.booleans()), max_size=80))
def test_no_room_is_more_than_twice_full(room: int, moves: list[tuple[str, int, bool]]) -> None:
    held = Counter[str]()
    for owner, count, give in moves:
        if give and held[owner] >= count:
            held[owner] -= count
        elif has_room(held, owner, room, count):
            held[owner] += count
        assert held.total() <= 2 * room
        if held.total() < room:
            assert all(has_room(held, other, room) for other in "abcd")


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


def test_who_holds_least_is_next() -> None:
    turns: TenantQueues[str, str] = TenantQueues()
    held = Counter({"a": 2, "b": 1})
    for owner, item in (("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")):
        turns.push(owner, item)
    assert turns.pop(held.__getitem__) == ("c", "c1")
    assert turns.pop(held.__getitem__, lambda owner: owner != "b") == ("a", "a1")
    assert turns.remove("b", "b1")
    assert not turns.remove("b", "b1")
    assert turns.pop(may=lambda owner: owner == "b") is None
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
        desk = TenantExecutor()
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


def test_who_is_gone_is_dropped() -> None:
    done, first = list[int](), Busy()

    async def run() -> None:
        desk = TenantExecutor()
        busy = asyncio.create_task(desk.run("a", first))
        await asyncio.to_thread(first.began.wait, 60)
        waiting = [asyncio.create_task(desk.run("a", partial(done.append, n))) for n in range(50)]
        await asyncio.sleep(0)
        assert len(list(desk._queue)) == 50
        for task in (busy, *waiting[:-1]):
            task.cancel()
        await asyncio.gather(busy, *waiting[:-1], return_exceptions=True)
        assert len(list(desk._queue)) == 1
        first.go_on.set()
        await waiting[-1]
        desk.close()

    asyncio.run(run())
    assert done == [49]


def test_nobody_has_all_threads_and_a_failure_ends_none() -> None:
    first, second = Busy(), Busy()

    async def run() -> None:
        desk = TenantExecutor(threads=3)
        for _ in range(4):
            with pytest.raises(ZeroDivisionError):
                await desk.run("a", lambda: 1 // 0)
        flood = [asyncio.create_task(desk.run("a", work)) for work in (first, second, lambda: None)]
        for busy in (first, second):
            await asyncio.to_thread(busy.began.wait, 60)
        assert await desk.run("b", lambda: 5) == 5
        assert not flood[2].done()
        for busy in (first, second):
            busy.go_on.set()
        await asyncio.gather(*flood)
        desk.close()

    asyncio.run(run())
