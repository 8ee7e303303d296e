"""Shares of a room, and turns."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.server.fairness import Shares, Turns

OWNERS = st.sampled_from("abcd")


def test_who_came_first_shuts_nobody_out() -> None:
    shares = Shares()
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
    shares = Shares()
    shares.take("a", 100)
    assert not shares.has_room("a", 100)
    assert shares.has_room("b", 100, 90)
    shares.take("b", 90)
    assert not shares.has_room("b", 100)
    assert not shares.has_room("c", 100, 90)
    assert shares.has_room("c", 100, 10)


@given(st.integers(1, 20), st.lists(st.tuples(OWNERS, st.integers(1, 5), st.booleans()), max_size=80))
def test_no_room_is_more_than_twice_full(room: int, moves: list[tuple[str, int, bool]]) -> None:
    shares, held = Shares(), Counter[str]()
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
    turns: Turns[str, int] = Turns()
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
        assert list(turns.owners()) == sorted(waiting, key=list(turns.owners()).index)
        assert sorted(turns) == sorted(chain.from_iterable(waiting.values()))
        assert len(turns) == sum(map(len, waiting.values()))


def test_who_holds_least_is_next() -> None:
    turns: Turns[str, str] = Turns()
    held = Shares()
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
