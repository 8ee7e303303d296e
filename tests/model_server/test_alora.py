"""aLoRA: the base computes a prompt up to the invocation tokens, and aLoRAs share this cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import tiny_models
from mlx_lm import load
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache
from peft_folders import edit_config, make_peft, real_peft
from serving_server import EngineHost

from fusery.model_server.sampling import Sampling
from fusery.model_server.writing import Generation
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.adapters.trained_through import ALORA
from fusery.registry.runtime.errors import AdapterError
from fusery.registry.runtime.switching import Resident

pytestmark = pytest.mark.timing

SHARED = [97 + number * 7 % 26 for number in range(500)]
FIRST, SECOND = [200, 201], [210]  # invocation tokens
LENGTH = 6


@pytest.fixture(scope="module")
def adapters(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("alora")
    made = []
    for number, tokens in enumerate((FIRST, SECOND)):
        made.append(tiny_models.make_adapter(folder / str(number), small_base, update=0.5, seed=number))
        edit_config(made[-1], alora_invocation_tokens=tokens)
    return made


@pytest.fixture
def host(small_base: Path) -> Iterator[EngineHost]:
    made = EngineHost(small_base, prompt_cache_bytes=1 << 30)
    yield made
    made.engine.stop()


Reference = Callable[[Path | None, Sequence[int], int], Any]


@pytest.fixture(scope="module")
def reference(small_base: Path) -> Reference:
    """Return mlx-lm's greedy answer: the base computes `start` tokens into a cache, and the adapter continues."""
    base = load(str(small_base))[0]

    def answer(adapter: Path | None, tokens: Sequence[int], start: int) -> Any:
        model = base if adapter is None else load(str(small_base), adapter_path=str(adapter))[0]
        cache, rest, said = make_prompt_cache(base), list(tokens[start:]), []
        if start:
            base(mx.array([tokens[:start]]), cache=cache)
        for _ in range(LENGTH):
            logits = model(mx.array([rest]), cache=cache)[0, -1]
            said.append(float(mx.max(logits) - mx.logsumexp(logits)))
            rest = [int(logits.argmax())]
        return pytest.approx(said, abs=1e-4)

    return answer


def job(tokens: Sequence[int], resident: Resident | None = None, **more: Any) -> Generation:
    return Generation(resident, list(tokens), LENGTH, Sampling(temperature=0), alternatives=0, **more)


def ask(host: EngineHost, *jobs: Generation) -> list[tuple[list[float], int]]:
    """Return the log probabilities of each answer's tokens, and how many tokens of its prompt were reused."""
    for each in jobs:
        host.begin(each)
    assert all(host.finish(each) != "error" for each in jobs)
    return [([one.logprob.logprob for one in host.pieces[each] if one.logprob], each.reused) for each in jobs]


def residents(host: EngineHost, adapters: list[Path]) -> list[Resident]:
    return [host.engine.load(folder.name, folder).result() for folder in adapters]


@pytest.mark.parametrize("width", [4, 1])
def test_answers_are_those_of_base_and_adapter_one_after_the_other(
    small_base: Path, adapters: list[Path], reference: Reference, width: int
) -> None:
    host = EngineHost(small_base, prompt_cache_bytes=1 << 30, width=width)
    cases = [
        (0, [*SHARED[:40], *FIRST, *SHARED[:5]], 40, 0),
        (0, [*SHARED[:40], *FIRST, *SHARED[:5], *FIRST, *SHARED[:3]], 47, 40),  # the last counts
        (0, [*FIRST, *SHARED[:40]], 0, 0),
        (0, [*SHARED[:40], *FIRST], 40, 41),
        (1, [*SHARED[:40], *SECOND], 40, 40),
        (1, [*SHARED[:40], *FIRST, *SHARED[:9], *SECOND], 51, 47),
    ]
    try:
        on = residents(host, adapters)
        expected = [reference(adapters[number], tokens, start) for number, tokens, start, _ in cases]
        always = [reference(adapters[number], tokens, 0) for number, tokens, *_ in cases]
        assert [one.expected == other.expected for one, other in zip(expected, always, strict=True)] == [
            case[2] == 0 for case in cases
        ]
        # One after the other, and beside each other in rows with different starts.
        alone = [ask(host, job(tokens, on[number]))[0] for number, tokens, *_ in cases]
        assert alone == [(answer, case[3]) for answer, case in zip(expected, cases, strict=True)]
        host.engine.prefixes.clear()
        together = ask(host, *(job(tokens, on[number]) for number, tokens, *_ in cases))
        assert [answer for answer, _ in together] == expected
    finally:
        host.engine.stop()


def test_the_base_s_cache_is_shared(
    host: EngineHost, adapters: list[Path], small_adapter: Path, reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first, second = residents(host, adapters)
    (plain,) = residents(host, [small_adapter])
    kind: Any = type(host.engine._board.model)
    call, computed = kind.__call__, [0]

    def counted(self: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        computed[0] += int(inputs.size)
        return call(self, inputs, *more, **named)

    monkeypatch.setattr(kind, "__call__", counted)
    asked = [
        (job([*SHARED, *FIRST, 97, 98], first, owner="acme"), 0),
        (job([*SHARED, *SECOND, 97, 98], second, owner="acme"), 500),
        (job([*SHARED, *FIRST, 97, 99], first, owner="acme"), 503),
        (job([*SHARED, 97, 98], first, owner="acme"), 500),  # inactive
        (job([*SHARED, 97, 98], None, owner="acme"), 501),
        (job([*SHARED, *SECOND], plain, owner="acme"), 0),
        (job([*SHARED, *SECOND], second, owner="other"), 0),
    ]
    said = []
    for each, reused in asked:
        computed[0] = 0
        said += ask(host, each)
        assert each.reused == reused
        assert computed[0] <= len(each.tokens) - reused + LENGTH
    assert [answer for answer, _ in said[:2]] == [
        reference(adapters[number], asked[number][0].tokens, 500) for number in (0, 1)
    ]
    assert said[3][0] == said[4][0] == reference(None, asked[4][0].tokens, 0)


def test_a_cache_that_cannot_be_cut_is_kept_at_the_invocation(host: EngineHost, adapters: list[Path]) -> None:
    model = host.engine._board.model
    model.make_cache = lambda: [RotatingKVCache(max_size=256) for _ in model.layers]
    first, second = residents(host, adapters)
    ask(host, job([*SHARED, *FIRST, 97], first))
    (again,) = ask(host, job([*SHARED, *SECOND, 97], second))
    assert again[1] == 500
    host.engine.prefixes.clear()
    assert ask(host, job([*SHARED, *SECOND, 97], second)) == [(pytest.approx(again[0], abs=1e-4), 0)]


@pytest.mark.parametrize("spoil", ["tokens", "dora"])
def test_an_alora_that_cannot_be_activated_is_refused(
    host: EngineHost, small_base: Path, tmp_path: Path, spoil: str
) -> None:
    kind: Any = "dora" if spoil == "dora" else "lora"
    folder = tiny_models.make_adapter(tmp_path / "a", small_base, fine_tune_type=kind)
    edit_config(folder, alora_invocation_tokens=["1"] if spoil == "tokens" else [1])
    with pytest.raises(AdapterError):
        host.engine.load("a", folder).result()


@pytest.mark.slow
def test_answers_are_those_of_peft(tmp_path: Path) -> None:
    """An adapter that PEFT saved, loaded in mlx-lm's form."""
    base = tiny_models.make_base(tmp_path / "tiny", dtype="float32", layout="hf")
    token = 200
    modules = ("q_proj", "v_proj", "down_proj")
    made = make_peft(tmp_path / "made", base, modules=modules, lora_alpha=64, alora_invocation_tokens=[token])
    real_peft("tensors", base, made, tmp_path / "peft")
    folder = read_adapter_folder(tmp_path / "peft")
    assert [remark.code for remark in folder.remarks] == [ALORA]
    host = EngineHost(base, prompt_cache_bytes=1 << 30)
    prompts = {
        "in the middle": [*SHARED[:30], token, *SHARED[:5]],
        "twice": [*SHARED[:30], token, *SHARED[:5], token, *SHARED[7:9]],
        "at the end": [*SHARED[:30], token],
        "at the beginning": [token, *SHARED[:30]],
        "missing": SHARED[:35],
    }
    try:
        resident = host.engine.load("a", folder.files["adapters.safetensors"].parent).result()
        for where, tokens in prompts.items():
            ((said, _),) = ask(host, job(tokens, resident))
            answer, expected = real_peft("greedy", base, tmp_path / "peft", json.dumps(tokens), LENGTH)
            assert len(answer) == LENGTH
            assert said == pytest.approx(expected, abs=1e-4), where
            ((plain, _),) = ask(host, job(tokens))
            assert (plain == pytest.approx(expected, abs=1e-4)) == (token not in tokens), "the base alone"
    finally:
        host.engine.stop()
