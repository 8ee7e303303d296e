"""Fairness where answers are written, counted in steps: no flood makes another tenant wait for more than a few."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from mlx_lm import load

from fusery.model_server.batching import PREFILL_TOKENS, BatchSlots, ContinuousBatch
from fusery.model_server.engine import Engine
from fusery.model_server.fairness import Throttle
from fusery.model_server.prefixes import Prefixes
from fusery.model_server.sampling import Sampling
from fusery.model_server.sequential import SequentialBatch
from fusery.model_server.writing import Generation, Piece, RunningJob
from fusery.registry.runtime.switching import LayerPlace, Resident, Switchboard


def places(*present: str) -> BatchSlots:
    return BatchSlots(32, Throttle(4, lambda: present))


def wait(at: BatchSlots, owner: str, count: int) -> list[Generation]:
    jobs = [Generation(None, [1], 1, owner=owner) for _ in range(count)]
    for job in jobs:
        at.wait(job)
    return jobs


def writing(job: Generation) -> RunningJob:
    class Tokenizer:
        detokenizer: Any = None

    return RunningJob(job, Tokenizer())


def test_who_has_most_of_the_places_throttle_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rests = Throttle(4, lambda: ("acme", "other"))
    at = BatchSlots(32, rests)
    for job in wait(at, "acme", 9):
        list(at.begin())
        at.read(writing(job))
    wait(at, "other", 1)
    list(at.begin())

    def rest(owner: str) -> float:
        at.charge(owner, 0.25)  # what may be taken ahead
        at.charge(owner, 1.0)
        began = now[0]
        while rests.resting(owner):
            now[0] += 0.05
        return now[0] - began

    assert 4 < rest("other") < 6
    assert 7.5 < rest("acme") < 9.5


@pytest.mark.parametrize(
    ("present", "expected"), [(("acme", "other"), {"acme": 24, "other": 16}), (("acme",), {"acme": 48})]
)
def test_many_adapters_are_no_second_share(present: tuple[str, ...], expected: dict[str, int]) -> None:
    """The first answers of an owner's adapters go beyond its own share by half at most, and not beyond another's."""
    at = places(*present)
    for number in range(64):
        at.wait(Generation(Resident(f"a{number}", None, number, 1, (), 0), [1], 1, owner="acme"))
        if "other" in present:
            at.wait(Generation(None, [1], 1, owner="other"))
    running: Counter[str] = Counter()
    for _ in range(200):
        for job in at.begin():
            running[job.owner] += 1
            at.read(writing(job))
    assert running == expected


WIDTH = 4
ENDLESS = Sampling(temperature=0, logit_bias={256: -100, 258: -100})

Made = tuple[Any, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_models.make_base(folder, dtype="float32", layers=1, hidden=64, intermediate=64)
    loaded = load(str(folder))
    return loaded[0], loaded[1]


@pytest.fixture(params=[ContinuousBatch, SequentialBatch])
def lane(request: pytest.FixtureRequest, made: Made) -> Iterator[ContinuousBatch | SequentialBatch]:
    import mlx.core as mx

    stream = mx.default_stream(mx.default_device())
    model, tokenizer = made
    found = request.param(
        Switchboard(model),
        tokenizer,
        width=WIDTH,
        stream=stream,
        throttle=Throttle(0, tuple),
        prefixes=Prefixes(),
    )
    yield found
    found.close()


def job(owner: str, prompt: int = 3, tokens: int = 2000) -> Generation:
    return Generation(None, [97] * prompt, tokens, ENDLESS, owner=owner)


def steps_until(lane: ContinuousBatch | SequentialBatch, *jobs: Generation, most: int = 200) -> int:
    left = set(jobs)
    for step in range(1, most + 1):
        left -= {found for found, piece in lane.step() if piece.tokens}
        if not left:
            return step
    pytest.fail(f"{len(left)} have no token after {most} steps")


def test_an_equal_share_and_then_turns(lane: ContinuousBatch | SequentialBatch) -> None:
    for _ in range(5 * WIDTH):
        lane.insert(job("flood"))
    for _ in range(3):
        lane.step()
    others = [job("other", tokens=5) for _ in range(WIDTH)]
    for each in others:
        lane.insert(each)
    seen: Counter[str] = Counter()
    for _ in range(30):
        pieces = lane.step()
        seen.update(found.owner for found, _ in pieces)
        assert Counter(found.owner for found, _ in pieces)["other"] <= WIDTH // 2
    assert seen["other"] == 5 * WIDTH  # all of them, two at a time, while the flood's go on
    assert seen["flood"] >= 30 * WIDTH
    assert lane.owners() == {"flood"}


def test_prompts_are_read_in_turns(
    lane: ContinuousBatch | SequentialBatch, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long prompts of one tenant do not hold up another's short one, and a step reads a bounded number of tokens."""
    read: list[int] = []
    kind: Any = type(made[0])
    call = kind.__call__

    def counted(self: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        read[-1] += int(inputs.size)
        return call(self, inputs, *more, **named)

    def step() -> list[tuple[Generation, Piece]]:
        read.append(0)
        return lane.step()

    monkeypatch.setattr(kind, "__call__", counted)
    for _ in range(3 * WIDTH):
        lane.insert(job("flood", prompt=1900, tokens=50))
    for _ in range(2):
        step()
    other = job("other")
    lane.insert(other)
    waited = 0
    while not any(found is other for found, _ in step()):
        waited += 1
        assert waited < 8, "the long prompts are read first"
    assert max(read) <= PREFILL_TOKENS + 2 * WIDTH


def test_many_lanes_of_one_are_one_turn(made: Made) -> None:
    """Who asks for twenty adapters at once, each put on as a whole, gets no more steps than who asks for one."""
    engine = Engine(Path("nowhere"), lambda pieces: stepped.extend(found.owner for found, _ in pieces))
    import mlx.core as mx

    stepped: list[str] = []
    engine.tokenizer, engine._board = made[1], Switchboard(made[0])
    engine._stream = mx.default_stream(mx.default_device())
    adapters = [
        Resident(f"a{number}", None, number, 1, (LayerPlace({}, "", None, None),), 0) for number in range(20)
    ]
    for resident in adapters:
        engine._insert(Generation(resident, [97] * 3, 2000, ENDLESS, owner="flood"))
    engine._insert(Generation(None, [97] * 3, 2000, ENDLESS, owner="other"))
    turns: Counter[str | None] = Counter()
    for _ in range(40):
        due = engine._due()
        assert len(due) == 2
        for resident in due:
            turns[resident.name if resident else None] += 1
            engine._step(resident)
    assert turns[None] == 40
    assert {turns[resident.name] for resident in adapters} == {2}
    assert stepped.count("other") >= 35
    for lane in engine._batches_by_adapter.values():
        lane.close()


@pytest.mark.parametrize("lane", [ContinuousBatch], indirect=True)
@pytest.mark.parametrize("when", ["before it begins", "while it is written"])
def test_a_failure_ends_its_own_job(
    lane: ContinuousBatch, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = job("acme", tokens=5), job("other", tokens=50)
    find = lane._prefixes.find

    def failing(*asked: Any) -> Any:
        if asked[0] is good:
            return find(*asked)
        raise RuntimeError("no memory for: hello")

    if when == "before it begins":
        monkeypatch.setattr(lane._prefixes, "find", failing)
    for each in (bad, good):
        lane.insert(each)
    pieces = lane.step()
    if when != "before it begins":
        writing = next(each for each in lane._running.values() if each.job is bad)
        monkeypatch.setattr(writing, "add", failing)
    pieces += [found for _ in range(12) for found in lane.step()]
    assert [piece.finish for found, piece in pieces if found is bad and piece.finish] == ["error"]
    assert [piece.finish for found, piece in pieces if found is good][-1] == "length"
    assert lane.jobs() == []
    assert lane._slots.readers() == []
