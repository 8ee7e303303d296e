"""The engine: answers of mlx-lm's own generation, in batches and beside each other, and what goes wrong in one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tiny_models
from mlx_lm import generate, load

from fusery.registry.server import engine as module
from fusery.registry.server.engine import Engine
from fusery.registry.server.errors import AdapterError, EngineError
from fusery.registry.server.lanes import BatchLane
from fusery.registry.server.places import PREFILL_TOKENS
from fusery.registry.server.sampling import Sampling, make_processors
from fusery.registry.server.solo import SoloLane
from fusery.registry.server.writing import Job, Piece

GREEDY = Sampling(temperature=0)
PROMPTS = ["hello", "boats and soldering", "a", "one two three four five six seven", "Grüße", "0123456789"]


@dataclass
class Heard:
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Host:
    """An engine and what it posted, by job."""

    def __init__(self, base: Path) -> None:
        self.heard: dict[Job, Heard] = {}
        self.some = threading.Event()
        self.engine = Engine(base, self.post, width=4)
        self.engine.start()

    def post(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        for job, piece in pieces:
            heard = self.heard[job]
            heard.text += piece.text
            heard.tokens += piece.tokens
            if piece.finish:
                heard.finish = piece.finish
                heard.ended.set()
        self.some.set()

    def begin(self, job: Job) -> Heard:
        heard = self.heard[job] = Heard()
        self.engine.submit(job)
        return heard

    def say(self, *jobs: Job) -> list[str]:
        every = [self.begin(job) for job in jobs]
        assert all(heard.ended.wait(60) for heard in every)
        return [heard.text for heard in every]

    def tokens(self, text: str) -> list[int]:
        return list(self.engine.tokenizer.encode(text))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_adapter(tmp_path_factory.mktemp("adapter") / "a", base, update=0.5)


@pytest.fixture(scope="module")
def host(base: Path) -> Iterator[Host]:
    made = Host(base)
    yield made
    made.engine.stop()


@pytest.fixture(params=[BatchLane, SoloLane])
def lanes(request: pytest.FixtureRequest, host: Host) -> Iterator[None]:
    """Each kind of lane in turn; the tiny model could do with either."""
    before, host.engine._lane_class = host.engine._lane_class, request.param
    yield
    host.engine._lane_class = before


@pytest.mark.usefixtures("lanes")
def test_answers_are_those_of_mlx_lm(host: Host, base: Path, adapter: Path) -> None:
    resident = host.engine.load("a", adapter).result()
    jobs, expected = [], []
    for folder, on in ((None, None), (str(adapter), resident)):
        model, tokenizer = load(str(base), adapter_path=folder)
        for prompt in PROMPTS:
            jobs.append(Job(on, host.tokens(prompt), 12, GREEDY))
            expected.append(generate(model, tokenizer, prompt=prompt, max_tokens=12))
    assert host.say(*jobs) == expected
    assert expected[: len(PROMPTS)] != expected[len(PROMPTS) :]


def test_a_base_that_transformers_5_saved(base: Path, tmp_path: Path) -> None:
    old, new = tiny_models.respell(tmp_path, base)
    host = Host(new)
    try:
        said = host.say(*(Job(None, host.tokens(prompt), 12, GREEDY) for prompt in PROMPTS))
    finally:
        host.engine.stop()
    expected = [
        [generate(*load(str(each)), prompt=prompt, max_tokens=12) for prompt in PROMPTS]
        for each in (old, new)
    ]
    assert said == expected[0]
    assert said != expected[1], "mlx-lm by itself takes another theta"


@pytest.mark.usefixtures("lanes")
def test_a_long_prompt_is_read_in_parts_and_counts_as_one(host: Host, base: Path) -> None:
    """Penalties look back on all of it, and its parts are those of mlx-lm."""
    model, tokenizer = load(str(base))
    tokens = [97 + number * 7 % 26 for number in range(3 * PREFILL_TOKENS + 7)]
    options = Sampling(temperature=0, presence_penalty=1.5, repetition_penalty=1.3)
    expected = generate(
        model,
        tokenizer,
        prompt=tokens,
        max_tokens=12,
        logits_processors=make_processors(options),
        prefill_step_size=PREFILL_TOKENS,
    )
    assert host.say(Job(None, tokens, 12, options)) == [expected]
    assert expected != host.say(Job(None, tokens, 12, GREEDY))[0]


@pytest.mark.usefixtures("lanes")
def test_ends(host: Host) -> None:
    whole = Job(None, host.tokens("hello"), 20, GREEDY)
    (text,) = host.say(whole)
    assert host.heard[whole].finish == "length"
    stop = text[3:5]
    stopped = Job(None, host.tokens("hello"), 20, GREEDY, (stop,))
    assert host.say(stopped) == [text[: text.index(stop)]]
    assert host.heard[stopped].finish == "stop"
    assert host.heard[stopped].tokens < 20
    # Token 258 ends a text.
    bias = Job(None, host.tokens("hello"), 20, Sampling(temperature=0, logit_bias={258: 100}))
    assert host.say(bias) == [""]
    assert (host.heard[bias].finish, host.heard[bias].tokens) == ("stop", 1)


@pytest.mark.usefixtures("lanes")
def test_a_seed_repeats_whatever_else_is_going_on(host: Host) -> None:
    def job(seed: int | None) -> Job:
        return Job(None, host.tokens("hello"), 12, Sampling(temperature=1.5, top_p=0.95, seed=seed))

    alone = host.say(job(7))[0]
    crowd = host.say(job(None), job(7), job(8), job(None))
    assert crowd[1] == alone
    assert len({*crowd}) == 4


@pytest.mark.usefixtures("lanes")
def test_cancelled_at_any_stage(host: Host) -> None:
    # Four are written at a time: two of these have to wait.
    jobs = [Job(None, host.tokens("hello"), 500, GREEDY) for _ in range(6)]
    host.some.clear()
    every = [host.begin(job) for job in jobs]
    assert host.some.wait(60)
    for job in jobs:
        host.engine.cancel(job)
    posted = [heard.tokens for heard in every]
    assert host.say(Job(None, host.tokens("a"), 2, GREEDY)) != []
    assert [heard.finish for heard in every] == [None] * 6
    assert max(heard.tokens - before for heard, before in zip(every, posted, strict=True)) <= 2
    assert host.engine._lanes == {}


def test_nobody_starves(host: Host, adapter: Path) -> None:
    resident = host.engine.load("a", adapter).result()
    bias = Sampling(temperature=0, logit_bias={256: -100, 258: -100})
    long = [host.begin(Job(None, host.tokens("hello"), 400, bias)) for _ in range(12)]
    host.say(Job(resident, host.tokens("hello"), 5, GREEDY))
    assert not any(heard.ended.is_set() for heard in long)
    for job in list(host.heard):
        host.engine.cancel(job)


def test_a_failure_ends_its_lane_and_nothing_else(host: Host, base: Path, tmp_path: Path) -> None:
    folder = tiny_models.make_adapter(tmp_path / "dora", base, update=0.5, fine_tune_type="dora")
    resident = host.engine.load("a", folder).result()

    class Broken:
        """A layer that fails in the middle of an answer."""

        def __call__(self, x: object) -> object:
            raise RuntimeError("a layer failed at: hello")

    other = host.begin(Job(None, host.tokens("hello"), 60, GREEDY))
    object.__setattr__(resident.places[0], "adapted", Broken())
    broken = host.begin(Job(resident, host.tokens("hello"), 60, GREEDY))
    assert broken.ended.wait(60)
    assert broken.finish == "error"
    assert other.ended.wait(60)
    assert other.finish in ("length", "stop")
    assert host.say(Job(None, host.tokens("hello"), 2, GREEDY)) != [""]


def test_an_adapter_that_does_not_fit(host: Host, tmp_path: Path) -> None:
    wide = tiny_models.make_base(tmp_path / "wide", hidden=128, layers=2)
    folder = tiny_models.make_adapter(tmp_path / "a", wide)
    with pytest.raises(AdapterError, match="does not fit the base"):
        host.engine.load("a", folder).result()
    assert host.engine.alive


@pytest.mark.parametrize("spoil", ["missing", "empty", "damaged", "its own code"])
def test_a_base_that_cannot_be_loaded(spoil: str, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    if spoil != "missing":
        tiny_models.make_base(folder, layers=1, hidden=64, intermediate=128)
    if spoil == "empty":
        (folder / "model.safetensors").unlink()
    elif spoil == "damaged":
        (folder / "model.safetensors").write_bytes(b"\0" * 100)
    elif spoil == "its own code":
        config = folder / "config.json"
        config.write_text(config.read_text().replace("{", '{"model_file": "evil.py",', 1))
        (folder / "evil.py").write_text("raise SystemExit('run')")
    engine = Engine(folder, lambda pieces: None)
    with pytest.raises(EngineError, match="the base cannot be loaded"):
        engine.start()
    assert not engine.alive


def test_what_the_model_has(host: Host) -> None:
    assert (host.engine.context, host.engine.vocabulary) == (2048, 320)
    assert module.CONTEXT > 2048
