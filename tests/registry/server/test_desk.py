"""Making requests ready in turns."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest

from fusery.registry.server import desk as module
from fusery.registry.server import fairness
from fusery.registry.server.desk import Desk

pytestmark = pytest.mark.timing


class Busy:
    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.go_on.wait(60)


def test_turns_go_round_by_tenant() -> None:
    done, busy = list[str](), Busy()

    async def run() -> None:
        desk = Desk(lambda: ())
        tasks = [asyncio.create_task(desk.do("flood", busy))]
        await asyncio.to_thread(busy.began.wait, 60)
        for owner, count in (("flood", 20), ("other", 3)):
            for text in (f"{owner} {number}" for number in range(count)):
                tasks.append(asyncio.create_task(desk.do(owner, partial(done.append, text))))
            await asyncio.sleep(0)
        busy.go_on.set()
        await asyncio.gather(*tasks)
        desk.close()

    asyncio.run(run())
    assert done[:6] == ["flood 0", "other 0", "flood 1", "other 1", "flood 2", "other 2"]
    assert len(done) == 23


def test_who_takes_long_rests_while_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made ready while both want something, a tenant with long work gets one in some of the other's."""
    monkeypatch.setattr(module, "REST", 10**6)
    done: list[str] = []
    crowded = True

    async def run() -> None:
        nonlocal crowded
        desk = Desk(lambda: ("flood", "a") if crowded else ())

        def long() -> None:
            done.append("flood")
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass

        flood = [asyncio.create_task(desk.do("flood", long)) for _ in range(3)]
        for owner in "abcd":  # each of whom rests, too
            await desk.do(owner, lambda: done.append("other"))
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
        desk = Desk(lambda: "ab")
        busy = asyncio.create_task(desk.do("a", first))
        await asyncio.to_thread(first.began.wait, 60)
        waiting = [asyncio.create_task(desk.do("a", partial(done.append, n))) for n in range(50)]
        await asyncio.sleep(0)
        assert len(desk._turns) == 50
        for task in (busy, *waiting[:-1]):
            task.cancel()
        await asyncio.gather(busy, *waiting[:-1], return_exceptions=True)
        assert len(desk._turns) == 1
        first.go_on.set()
        await waiting[-1]
        desk.close()

    asyncio.run(run())
    assert done == [49]


def test_what_goes_wrong_is_told_and_the_desk_goes_on() -> None:
    async def run() -> int:
        desk = Desk(lambda: ())
        with pytest.raises(ZeroDivisionError):
            await desk.do("a", lambda: 1 // 0)
        found = await desk.do("a", lambda: 7)
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
        desk = Desk(lambda: owners, threads=2)
        await asyncio.gather(*(desk.do("a", work) for _ in range(4)))
        desk.close()

    asyncio.run(run())
    assert most == together
