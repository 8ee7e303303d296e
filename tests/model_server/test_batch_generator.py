"""Many adapters in one pass: the answers of each alone, whoever joins, leaves, is cancelled or loaded meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_architectures
import tiny_models
from mlx_lm import load
from mlx_lm.generate import generate_step
from serving_server import EngineHost
from waiting import wait_until

from fusery.model_server.sampling import Sampling
from fusery.model_server.writing import Generation
from fusery.registry.runtime.switching import Resident

pytestmark = pytest.mark.timing

RANKS = (8, 8, 8, 4, 16, 3, 8, 32)
ENDLESS = Sampling(temperature=0, logit_bias={256: -100, 258: -100})
"""Greedy, and never at its end before it has as many tokens as were asked for."""
LENGTHS = (1, 3, 9, 24, 40)


def begin(host: EngineHost, resident: Any, prompt: list[int], length: int, owner: str = "") -> Generation:
    return host.begin(Generation(resident, prompt, length, ENDLESS, owner=owner, alternatives=0))


@pytest.fixture(scope="module")
def folders(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("adapters")
    return [
        tiny_models.make_adapter(
            place / f"a{number}",
            small_base,
            seed=number,
            rank=rank,
            update=0.5,
            num_layers=1 + number % 2,
            fine_tune_type="dora" if number == 6 else "lora",
        )
        for number, rank in enumerate(RANKS)
    ]


@pytest.fixture
def host(small_base: Path) -> Iterator[EngineHost]:
    made = EngineHost(small_base, width=16, prompt_cache_bytes=1 << 28)
    yield made
    made.engine.stop()


class Alone:
    def __init__(self, base: Path, folders: list[Path]) -> None:
        paths: list[Path | None] = [None, *folders]
        self._loaded = [load(str(base), adapter_path=str(path) if path else None) for path in paths]

    def text(self, number: int, prompt: list[int], length: int) -> str:
        import mlx.core as mx

        from fusery.model_server.sampling import make_processors

        model, tokenizer = self._loaded[number]
        steps = generate_step(
            mx.array(prompt), model, max_tokens=length, logits_processors=make_processors(ENDLESS)
        )
        detokenizer: Any = tokenizer.detokenizer
        detokenizer.reset()
        for token, _ in steps:
            detokenizer.add_token(int(token))
        detokenizer.finalize()
        return str(detokenizer.text)


def prompt(rng: random.Random) -> list[int]:
    beginning = [97 + number % 20 for number in range(40)] if rng.random() < 0.5 else []
    return [*beginning, *(rng.randrange(97, 122) for _ in range(rng.randrange(1, 60)))]


def test_requests_are_mixed_through_joins_leaves_cancels_and_reloads(
    host: EngineHost, small_base: Path, folders: list[Path]
) -> None:
    rng, alone = random.Random(18), Alone(small_base, folders)
    # The last adapter comes while the others are at work, and one of them goes and comes back.
    residents: list[Resident | None] = [None]
    residents += [host.engine.load(folder.name, folder).result() for folder in folders[:-1]]
    assert [each.by_row for each in residents if each is not None] == [True] * 6 + [False]
    wanted: dict[Generation, str] = {}
    dropped = []
    for number in range(28):
        if number == 10:
            residents.append(host.engine.load("late", folders[-1]).result())
        if number == 18:
            residents[2] = None
            residents[2] = host.engine.load("again", folders[1]).result()
        chosen, words, length = rng.randrange(len(residents)), prompt(rng), rng.choice(LENGTHS)
        job = begin(host, residents[chosen], words, length, owner=rng.choice(["acme", "other"]))
        if rng.random() < 0.2:
            dropped.append(begin(host, residents[chosen], prompt(rng), 400))
        if dropped and rng.random() < 0.5:
            host.engine.cancel(dropped.pop(rng.randrange(len(dropped))))
        if rng.random() < 0.3:
            wait_until(lambda job=job: host.pieces[job])  # type: ignore[misc]
        wanted[job] = alone.text(chosen, words, length)
    for job in dropped:
        host.engine.cancel(job)
    assert len(set(wanted.values())) > 20
    for job, expected in wanted.items():
        assert host.text(job) == expected
    assert any(job.reused for job in wanted)


def test_one_pass_for_all(host: EngineHost, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    some = [path for number, path in enumerate(folders) if number != 6][:6]
    residents = [host.engine.load(path.name, path).result() for path in some]
    kind: Any = type(host.engine._board.model)
    call, passes = kind.__call__, []

    def counted(self: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        passes.append(tuple(inputs.shape))
        return call(self, inputs, *more, **named)

    monkeypatch.setattr(kind, "__call__", counted)

    def took(on: list[Resident | None]) -> int:
        jobs = [begin(host, each, [97] * 5, 30, owner="acme") for each in on]
        for job in jobs:
            host.text(job)
        found = len(passes)
        passes.clear()
        return found

    alone = took([None] * 8)
    assert took([*residents, None, residents[0]]) <= alone + 8
    assert alone < 60


# gemma2's mask has no place for heads, and what was padded is in mamba's state.
BATCHES = {"gemma2": False, "baichuan_m1": False, "mamba": False, "llama": True, "gemma3_text": True}
EXPERTS = {"qwen3_moe": True, "qwen3_next": True}  # mlx has no product for them in bfloat16 on a processor


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "float32") for kind in BATCHES | EXPERTS), *((kind, "bfloat16") for kind in BATCHES)],
)
def test_a_class_that_computes_no_batches_is_asked_one_at_a_time(
    kind: str, dtype: str, tmp_path: Path
) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from fusery.model_server.batch_generator import computes_batches
    from fusery.registry.runtime.stacked import BatchRows

    base = tiny_architectures.make_architecture(tmp_path / "base", kind, dtype=dtype)
    model, _ = load_model(base)
    assert (
        computes_batches(model, BatchRows(), mx.default_stream(mx.default_device()))
        == (BATCHES | EXPERTS)[kind]
    )


@pytest.mark.parametrize("kind", ["gemma2", "baichuan_m1", "mamba"])
def test_a_class_that_computes_no_batches_answers_one_after_the_other(kind: str, tmp_path: Path) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", kind, dtype="float32")
    tiny_models.make_tokenizer(base)
    host = EngineHost(base)
    try:
        assert host.engine._width == 1
        alone, prompts = Alone(base, []), [[97] * length for length in (1, 9, 4)]
        jobs = [begin(host, None, words, 6, owner=str(len(words))) for words in prompts]
        assert [host.text(job) for job in jobs] == [alone.text(0, words, 6) for words in prompts]
    finally:
        host.engine.stop()
