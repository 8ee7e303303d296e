"""The prompt cache: what is read once is not read again, answers stay the same, and nobody gets what is not theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache
from serving_server import EngineHost

from fusery.model_server.prefixes import ENTRIES, LEAST_TOKENS, Prefixes
from fusery.model_server.sampling import Sampling
from fusery.model_server.writing import Generation
from fusery.registry.runtime.switching import Resident

pytestmark = pytest.mark.timing

GREEDY = Sampling(temperature=0)
SYSTEM = [97 + number * 7 % 26 for number in range(700)]


class Host(EngineHost):
    def ask(self, *jobs: Generation) -> list[tuple[list[str], int]]:
        for job in jobs:
            self.begin(job)
        assert all(self.finish(job) != "error" for job in jobs)
        return [([piece.text for piece in self.pieces[job]], job.reused) for job in jobs]


@pytest.fixture(scope="module")
def plain(small_base: Path) -> Iterator[Host]:
    made = Host(small_base)
    yield made
    made.engine.stop()


@pytest.fixture
def host(small_base: Path) -> Iterator[Host]:
    made = Host(small_base, prompt_cache_bytes=1 << 30)
    yield made
    made.engine.stop()


def job(
    tokens: Sequence[int], resident: Resident | None = None, length: int = 12, **options: Any
) -> Generation:
    return Generation(resident, list(tokens), length, options.pop("sampling", GREEDY), **options)


def look_back_less(host: Host) -> None:
    """Give the model caches that cannot be cut once they are full: those of Gemma and others."""
    model = host.engine._board.model
    model.make_cache = lambda: [RotatingKVCache(max_size=256) for _ in model.layers]


def test_what_was_read_is_not_read_again_and_answers_are_the_same(host: Host, plain: Host) -> None:
    prompts = [SYSTEM + [97 + number] * (3 + number) for number in range(6)]
    expected = [said for prompt in prompts for said, reused in plain.ask(job(prompt)) if not reused]
    assert len(expected) == len({*map(tuple, expected)}) == 6
    assert host.ask(job(prompts[0])) == [(expected[0], 0)]
    assert host.ask(job(prompts[1])) == [(expected[1], len(SYSTEM))]
    # Again, and beside each other, and with what is not like it.
    together = host.ask(*map(job, prompts), job(SYSTEM[::-1][:300]))
    assert [said for said, _ in together[:6]] == expected
    assert [reused for _, reused in together] == [len(prompts[0]) - 1, len(prompts[1]) - 1, *[700] * 4, 0]


def test_a_conversation_goes_on_where_it_was(host: Host, plain: Host) -> None:
    prompt = SYSTEM[:100]
    ((_, reused),) = host.ask(job(prompt, sampling=Sampling(temperature=0, logit_bias={98: 100})))
    assert reused == 0
    more = prompt + [98] * 12 + [99] * 20
    assert host.ask(job(more)) == [(plain.ask(job(more))[0][0], 112)]
    # What was written before a stop string is kept as well.
    host.ask(
        job(SYSTEM[:90], length=50, sampling=Sampling(temperature=0, logit_bias={98: 100}), stop=("bbbb",))
    )
    assert host.ask(job(SYSTEM[:90] + [98] * 4 + [99]))[0][1] == 94


def test_penalties_look_back_on_what_was_read_before(host: Host, plain: Host) -> None:
    options = Sampling(temperature=0, presence_penalty=1.5, repetition_penalty=1.3)
    first, second = SYSTEM + [99] * 4, SYSTEM + [100] * 5
    host.ask(job(first))
    ((said, reused),) = host.ask(job(second, sampling=options))
    assert reused == 700
    assert said == plain.ask(job(second, sampling=options))[0][0]
    assert said != plain.ask(job(second))[0][0]


def test_caches_that_cannot_be_cut_are_kept_where_prompts_part(host: Host, small_base: Path) -> None:
    without = Host(small_base)
    look_back_less(without)
    look_back_less(host)
    try:
        prompts = [SYSTEM[:400] + [97 + number] * 40 for number in range(4)]
        expected = [without.ask(job(prompt))[0][0] for prompt in prompts]
    finally:
        without.engine.stop()
    heard = [host.ask(job(prompt))[0] for prompt in prompts]
    assert [said for said, _ in heard] == expected
    assert [reused for _, reused in heard] == [0, 0, 400, 400]
    assert host.ask(job(prompts[3])) == [(expected[3], 439)]


def test_nobody_gets_what_is_not_theirs(host: Host, small_adapter: Path) -> None:
    prompt = SYSTEM[:100]
    one, other = host.engine.load("a", small_adapter).result(), host.engine.load("a", small_adapter).result()
    assert host.ask(job(prompt, one, owner="acme"))[0][1] == 0
    assert host.ask(job(prompt, one, owner="acme"))[0][1] == 99
    assert host.ask(job(prompt, one, owner="other"))[0][1] == 0
    assert host.ask(job(prompt, None, owner="acme"))[0][1] == 0
    # The same name and the same file, loaded anew: an alias that has moved.
    assert host.ask(job(prompt, other, owner="acme"))[0][1] == 0


def test_what_may_not_be_kept_goes(host: Host) -> None:
    good = [True, True]
    kept = [
        job(SYSTEM[:50], owner="acme", may_keep=lambda: good[0]),
        job(SYSTEM[:60], owner="other", may_keep=lambda: good[1]),
    ]
    host.ask(*kept)
    prefixes = host.engine.prefixes

    def kept_after_posting() -> int:
        host.engine.load("none", Path("none")).exception()  # prompts are cached after the answer is posted
        return len(prefixes)

    assert kept_after_posting() == 2
    good[0] = False
    host.engine.sweep()
    # What is still being answered when its key goes is not kept either.
    assert host.ask(job(SYSTEM[:50], owner="acme", may_keep=lambda: good[0]))[0][1] == 0
    assert kept_after_posting() == 1
    assert host.ask(job(SYSTEM[:60], owner="other"))[0][1] == 59
    good[1] = False
    host.engine.sweep()
    host.ask(job([97]))
    assert (len(prefixes), prefixes.nbytes) == (0, 0)


def layers(length: int) -> list[KVCache]:
    made = KVCache()
    made.update_and_fetch(mx.zeros((1, 1, length, 128)), mx.zeros((1, 1, length, 128)))
    made.keys, made.values = made.keys[..., :length, :], made.values[..., :length, :]
    return [made]


def put(prefixes: Prefixes, owner: str, first: int, length: int) -> Generation:
    made = job([first, *range(1, length)], owner=owner)
    prefixes.put(made, made.tokens, layers(length))
    return made


def test_who_has_most_gives_way_first() -> None:
    prefixes = Prefixes(1024 * 100)
    other = put(prefixes, "other", 1000, 30)
    flood = [put(prefixes, "flood", number, 20) for number in range(50)]
    assert prefixes.nbytes <= prefixes.limit
    assert prefixes.find(other).length == 29
    assert [prefixes.find(each).length for each in flood[-4:]] == [0, 19, 19, 19]
    # Its own that was used last stays.
    prefixes.find(flood[-3])
    put(prefixes, "flood", 2000, 20)
    assert [prefixes.find(each).length for each in flood[-3:]] == [19, 0, 19]
    # And there are bounds on how many, on how large, and on how short.
    prefixes = Prefixes(1 << 30)
    for number in range(2 * ENTRIES):
        put(prefixes, "a", 1000 + number, LEAST_TOKENS)
    assert len(prefixes) == ENTRIES
    small = Prefixes(1024 * 10)
    assert put(small, "a", 0, 20) and len(small) == 0, "larger than all there is room for"
    put(prefixes, "b", 0, LEAST_TOKENS - 1)
    assert prefixes.find(job(range(LEAST_TOKENS), owner="b")).length == 0


def test_what_is_within_another_takes_no_room() -> None:
    prefixes = Prefixes(1 << 30)
    put(prefixes, "a", 0, 30)
    put(prefixes, "a", 0, 50)
    assert (len(prefixes), prefixes.nbytes) == (1, 50 * 1024)
    put(prefixes, "a", 0, 40)
    assert len(prefixes) == 1
    found = prefixes.find(job([*range(35), 999], owner="a"))
    assert found.length == 35
    assert found.cache is not None
    assert found.cache[0].offset == 35
    assert prefixes.find(job(range(60), owner="a")).length == 50, "what is lent is a copy"
