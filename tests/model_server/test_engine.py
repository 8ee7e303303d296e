"""The engine: answers of mlx-lm's own generation, in batches and beside each other, and what goes wrong in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import tiny_models
from mlx_lm import generate, load
from serving_server import EngineHost

from fusery.model_server.batching import PREFILL_TOKENS
from fusery.model_server.engine import Engine
from fusery.model_server.sampling import Sampling, make_processors
from fusery.model_server.writing import Generation
from fusery.registry.runtime.errors import AdapterError, EngineError

GREEDY = Sampling(temperature=0)
PROMPTS = ["hello", "boats and soldering", "a", "one two three four five six seven", "Grüße", "0123456789"]


pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def host(small_base: Path) -> Iterator[EngineHost]:
    made = EngineHost(small_base)
    yield made
    made.engine.stop()


def say(host: EngineHost, *jobs: Generation) -> list[str]:
    for job in jobs:
        host.begin(job)
    return [host.text(job) for job in jobs]


def test_answers_are_those_of_mlx_lm(host: EngineHost, small_base: Path, small_adapter: Path) -> None:
    resident = host.engine.load("a", small_adapter).result()
    jobs, expected = [], []
    for folder, on in ((None, None), (str(small_adapter), resident)):
        model, tokenizer = load(str(small_base), adapter_path=folder)
        for prompt in PROMPTS:
            jobs.append(Generation(on, host.tokens(prompt), 12, GREEDY))
            expected.append(generate(model, tokenizer, prompt=prompt, max_tokens=12))
    assert say(host, *jobs) == expected
    assert expected[: len(PROMPTS)] != expected[len(PROMPTS) :]


def test_a_base_that_transformers_5_saved(small_base: Path, tmp_path: Path) -> None:
    old, new = tiny_models.respell(tmp_path, small_base)
    host = EngineHost(new)
    try:
        said = say(host, *(Generation(None, host.tokens(prompt), 12, GREEDY) for prompt in PROMPTS))
    finally:
        host.engine.stop()
    expected, other = (
        [generate(*load(str(each)), prompt=prompt, max_tokens=12) for prompt in PROMPTS]
        for each in (old, new)
    )
    assert said == expected != other, "mlx-lm by itself takes another theta"


def test_a_long_prompt_is_read_in_parts_and_counts_as_one(host: EngineHost, small_base: Path) -> None:
    """Penalties look back on all of it, and its parts are those of mlx-lm."""
    model, tokenizer = load(str(small_base))
    tokens = [97 + number * 7 % 26 for number in range(3 * PREFILL_TOKENS + 7)]
    options = Sampling(temperature=0, presence_penalty=1.5, repetition_penalty=1.3)
    how: dict[str, Any] = {"logits_processors": make_processors(options), "prefill_step_size": PREFILL_TOKENS}
    expected = generate(model, tokenizer, prompt=tokens, max_tokens=12, **how)
    assert say(host, Generation(None, tokens, 12, options)) == [expected]
    assert expected != say(host, Generation(None, tokens, 12, GREEDY))[0]


def test_ends(host: EngineHost) -> None:
    tokens = host.tokens("hello")
    whole = host.begin(Generation(None, tokens, 20, GREEDY))
    assert host.finish(whole) == "length"
    stop = host.text(whole)[3:5]
    stopped = host.begin(Generation(None, tokens, 20, GREEDY, (stop,)))
    assert host.finish(stopped) == "stop"
    assert host.text(stopped) == host.text(whole).partition(stop)[0]
    assert sum(piece.tokens for piece in host.pieces[stopped]) < 20
    # Token 258 ends a text.
    bias = host.begin(Generation(None, tokens, 20, Sampling(temperature=0, logit_bias={258: 100})))
    assert (host.text(bias), host.finish(bias)) == ("", "stop")
    assert sum(piece.tokens for piece in host.pieces[bias]) == 1


def test_a_seed_repeats_whatever_else_is_going_on(host: EngineHost) -> None:
    def job(seed: int | None) -> Generation:
        return Generation(None, host.tokens("hello"), 12, Sampling(temperature=1.5, top_p=0.95, seed=seed))

    alone = say(host, job(7))[0]
    crowd = say(host, job(None), job(7), job(8), job(None))
    assert crowd[1] == alone
    assert len({*crowd}) == 4


def test_cancelled_at_any_stage(host: EngineHost) -> None:
    # Four are written at a time: two of these have to wait.
    jobs = [Generation(None, host.tokens("hello"), 500, GREEDY) for _ in range(6)]
    host.some.clear()
    for job in jobs:
        host.begin(job)
    assert host.some.wait(60)
    for job in jobs:
        host.engine.cancel(job)
    posted = [len(host.pieces[job]) for job in jobs]
    assert say(host, Generation(None, host.tokens("a"), 2, GREEDY)) != []
    assert not any(host.has_ended(job) for job in jobs)
    assert max(len(host.pieces[job]) - before for job, before in zip(jobs, posted, strict=True)) <= 2
    assert host.engine._batches_by_adapter == {}


def test_a_failure_ends_its_batch_and_nothing_else(
    host: EngineHost, small_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "dora", small_base, update=0.5, fine_tune_type="dora")
    resident = host.engine.load("a", folder).result()

    def broken(x: object) -> object:
        raise RuntimeError("a layer failed at: hello")

    object.__setattr__(resident.places[0], "adapted", broken)
    other, failing = (host.begin(Generation(on, host.tokens("hello"), 60, GREEDY)) for on in (None, resident))
    assert host.finish(failing) == "error"
    assert host.finish(other) in ("length", "stop")
    assert ("RuntimeError" in caplog.text, "hello" in caplog.text) == (True, False)
    assert say(host, Generation(None, host.tokens("hello"), 2, GREEDY)) != [""]


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
    with pytest.raises(EngineError):
        engine.start()
    assert not engine.alive


def test_an_adapter_that_does_not_fit(host: EngineHost, tmp_path: Path) -> None:
    wide = tiny_models.make_base(tmp_path / "wide", hidden=128, layers=2)
    folder = tiny_models.make_adapter(tmp_path / "a", wide)
    with pytest.raises(AdapterError):
        host.engine.load("a", folder).result()
    assert host.engine.alive
    assert (host.engine.context, host.engine.vocabulary) == (2048, 320)


@pytest.mark.parametrize("bits", [4, None])
def test_a_processor_computes_quantised_bases_in_float32(bits: int | None, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=bits, layers=2, hidden=64, intermediate=128)
    host = EngineHost(base)
    try:
        norm = host.engine._board.model.model.norm.weight
        assert norm.dtype == (mx.float32 if bits and mx.default_device() == mx.cpu else mx.bfloat16)
        assert host.engine._width > 1
        assert say(host, Generation(None, host.tokens("a"), 2, GREEDY)) != [""]
    finally:
        host.engine.stop()
