from __future__ import annotations

import hashlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine import schedule as module
from fusery.registry.engine.plan import CopyStep, OutputPlace
from fusery.registry.engine.schedule import CHUNK, Chain, Hash, Schedule
from fusery.registry.engine.work import Block, Span


@given(cuts=st.lists(st.integers(1, 99), max_size=9, unique=True), seed=st.integers(0, 99))
def test_a_chain_reaches_as_far_as_everything_before_is_written(cuts: list[int], seed: int) -> None:
    edges = [0, *sorted(cuts), 100]
    spans = list(itertools.pairwise(edges))
    random.Random(seed).shuffle(spans)
    chain = Chain(0, 100)
    written: set[int] = set()
    for begin, end in spans:
        chain.complete(begin, end)
        written |= set(range(begin, end))
        assert chain.reach == next(n for n in range(101) if n not in written)


def copies(sizes: list[int]) -> list[CopyStep]:
    steps, position = [], 8
    for size in sizes:
        steps.append(CopyStep("base", position - 8, size, OutputPlace(0, position)))
        position += size
    return steps


def run_all(schedule: Schedule, in_flight: int, seed: int = 0) -> list[Block | Hash]:
    order, flying, tasks = random.Random(seed), [], []
    while not schedule.finished:
        while len(flying) < in_flight and (task := schedule.take(0)) is not None:
            flying.append(task)
        task = flying.pop(order.randrange(len(flying)))
        tasks.append(task)
        if isinstance(task, Block):
            assert isinstance(task.step, CopyStep)
            begin = task.step.place.offset + task.first
            schedule.done(task, [Span(0, begin, begin + task.count)])
        else:
            schedule.done(task)
    return tasks


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_everything_is_done_once_and_every_file_is_hashed_in_order(in_flight: int) -> None:
    sizes = [5, 3 * CHUNK, 10, 7 * CHUNK + 1]
    total = 8 + sum(sizes)
    output, base = Chain(0, total, reach=8), Chain(1, sum(sizes))
    schedule = Schedule(copies(sizes), [output], {"base": base}, in_flight)
    tasks = run_all(schedule, in_flight)
    assert schedule.written == sum(sizes)
    assert (output.left, base.left) == (0, 0)
    blocks = [(task.step, task.first, task.count) for task in tasks if isinstance(task, Block)]
    assert sum(count for *_, count in blocks) == sum(sizes)
    assert len({(id(step), first) for step, first, _ in blocks}) == len(blocks)
    for chain in (output, base):
        hashed = sorted(
            (task.offset, task.size) for task in tasks if isinstance(task, Hash) and task.chain is chain
        )
        position = 0
        for offset, size in hashed:
            assert offset == position
            assert 0 < size <= CHUNK
            position += size
        assert position == chain.size


def test_nothing_is_handed_out_after_a_stop_and_an_empty_plan_still_hashes() -> None:
    schedule = Schedule(copies([CHUNK]), [Chain(0, CHUNK + 8, reach=8)], {}, 2)
    schedule.stop()
    assert schedule.finished
    assert schedule.take(10) is None
    output = Chain(0, 6, reach=6)
    empty = Schedule([], [output], {"base": Chain(1, 6)}, 2)
    assert [type(task) for task in run_all(empty, 2)] == [Hash, Hash]
    output.running.update(b"header")
    assert output.digest == hashlib.sha256(b"header").hexdigest()


def first_two(size: int, threads: int) -> list[type[object]]:
    schedule = Schedule(copies([size]), [], {"base": Chain(1, 4 * CHUNK)}, threads)
    return [type(schedule.take(0)) for _ in range(2)]


def test_a_file_is_hashed_first_where_it_would_be_done_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_two(100 * CHUNK, 1) == [Block, Block]
    assert first_two(100 * CHUNK, 20) == first_two(4 * CHUNK, 1) == [Block, Hash]
    monkeypatch.setattr(module, "_BACKLOG", CHUNK)
    assert first_two(100 * CHUNK, 1) == [Block, Hash]
    monkeypatch.undo()
    short, long = Chain(0, 10 * CHUNK, 10 * CHUNK, 8 * CHUNK), Chain(1, 5 * CHUNK, 5 * CHUNK)
    task = Schedule([], [short, long], {}, 1).take(0)
    assert isinstance(task, Hash) and task.chain is long


def test_the_base_is_hashed_near_to_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AHEAD", CHUNK)
    chain = Chain(1, 100 * CHUNK)
    block = Schedule(copies([100 * CHUNK]), [], {"base": chain}, 1).take(0)
    assert isinstance(block, Block) and chain.reach == block.count + CHUNK
    assert Block(CopyStep("base", 5, 20, OutputPlace(0, 8)), 7, 2, 0.0).source_end == 14
    assert [Chain(0, 2 * CHUNK, reach).ready for reach in (CHUNK - 1, CHUNK, 2 * CHUNK)] == [
        False,
        True,
        True,
    ]
    assert [Chain(0, 10, reach, at).ready for reach, at in ((9, 0), (10, 0), (10, 10))] == [
        False,
        True,
        False,
    ]
