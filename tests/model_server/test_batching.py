"""Fairness where answers are written, counted in steps: no flood makes another tenant wait for more than a few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from mlx_lm import load

from fusery.model_server.batching import PREFILL_TOKENS, Batch
from fusery.model_server.engine import Engine
from fusery.model_server.prefixes import Prefixes
from fusery.model_server.sampling import Sampling
from fusery.model_server.writing import Generation, Piece
from fusery.registry.runtime.switching import LayerPlace, Resident, Switchboard

WIDTH = 4
ENDLESS = Sampling(temperature=0, logit_bias={256: -100, 258: -100})

Made = tuple[Any, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_models.make_base(folder, dtype="float32", layers=1, hidden=64, intermediate=64)
    loaded = load(str(folder))
    return loaded[0], loaded[1]


def make_batch(made: Made, width: int) -> Batch:
    import mlx.core as mx

    stream = mx.default_stream(mx.default_device())
    return Batch(Switchboard(made[0]), made[1], width=width, stream=stream, prefixes=Prefixes())


@pytest.fixture
def lane(made: Made) -> Iterator[Batch]:
    found = make_batch(made, WIDTH)
    yield found
    found.close()


def job(owner: str, prompt: int = 3, tokens: int = 2000) -> Generation:
    return Generation(None, [97] * prompt, tokens, ENDLESS, owner=owner)


def test_an_equal_share_and_then_turns(lane: Batch) -> None:
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


def test_prompts_are_read_in_turns(lane: Batch, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts of one tenant do not hold up another's short one, and a step reads a bounded number of tokens."""
    read: list[int] = []
    kind: Any = type(made[0])
    call = kind.__call__

    def counted(self: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        read[-1] += int(inputs.size)
        return call(self, inputs, *more, **named)

    def step() -> list[tuple[Generation, Piece]]:
        read.append(0)
        return lane.step(shared=len(lane.owners()) > 1)

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


@pytest.mark.parametrize("when", ["before it begins", "while it is written"])
def test_a_failure_ends_its_own_job(lane: Batch, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_batch_of_one_has_one_job_at_a_time(made: Made) -> None:
    lane = make_batch(made, 1)
    for owner in ("flood", "flood", "other"):
        lane.insert(job(owner, tokens=3))
    ended = []
    for _ in range(30):
        pieces = lane.step(shared=True)
        assert len(pieces) <= 1
        ended += [found.owner for found, piece in pieces if piece.finish]
    assert ended == ["flood", "other", "flood"]
    lane.close()


def test_a_step_reads_for_a_moment_while_others_have_answers(lane: Batch) -> None:
    lane.insert(job("a", prompt=2000))
    lane.step()
    lane._token_seconds, lane._write_seconds = 0.001, 0.0
    assert (lane._prefill_size(shared=False), lane._prefill_size(shared=True)) == (512, 20)
    lane._write_seconds = 0.1
    assert lane._prefill_size(shared=True) == 100
    lane._token_seconds = 1.0
    assert lane._prefill_size(shared=True) == 8
