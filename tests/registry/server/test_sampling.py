"""How tokens are chosen: what mlx-lm would choose, and with a seed the same again."""

from __future__ import annotations

import mlx.core as mx
import pytest

from fusery.registry.server.sampling import Sampling, make_processors, make_sampler

LOGPROBS = mx.log(mx.array([[0.4, 0.3, 0.2, 0.06, 0.04]]))


@pytest.fixture(autouse=True)
def seeded() -> None:
    mx.random.seed(3)  # of which requests without a seed draw


@pytest.mark.parametrize("seed", [None, 5])
def test_likely_tokens_are_left_out_but_for_the_least_likely_of_them(seed: int | None) -> None:
    def drawn(probability: float, spared: tuple[int, ...] = ()) -> set[int]:
        options = Sampling(seed=seed, xtc_probability=probability, xtc_threshold=0.1, xtc_spared=spared)
        sample = make_sampler(options)
        return {int(sample(LOGPROBS).item()) for _ in range(200)}

    assert drawn(0.0) == {0, 1, 2, 3, 4}
    assert drawn(1.0) == {2, 3, 4}
    assert drawn(1.0, (0,)) == {0, 2, 3, 4}
    assert drawn(0.5) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_p": 0.5}, {0, 1}),
        ({"top_p": 0.95}, {0, 1, 2, 3}),
        ({"top_p": 1.0}, {0, 1, 2, 3, 4}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"min_p": 0.5}, {0, 1, 2}),
        ({"temperature": 0.01}, {0}),
        ({"temperature": 0}, {0}),
    ],
)
def test_options_limit_the_tokens(seed: int | None, options: dict[str, float], expected: set[int]) -> None:
    sample = make_sampler(Sampling(seed=seed, **options))  # type: ignore[arg-type]
    assert {int(sample(LOGPROBS).item()) for _ in range(300)} == expected


@pytest.mark.parametrize("penalty", ["presence", "frequency", "repetition"])
def test_how_far_penalties_look_back(penalty: str) -> None:
    tokens = mx.array([0, 1, 2])
    for window, changed in ((1, [2]), (2, [1, 2]), (20, [0, 1, 2])):
        options = Sampling(**{f"{penalty}_penalty": 2.0, f"{penalty}_context_size": window})
        (process,) = make_processors(options)
        different = (process(tokens, LOGPROBS[:]) != LOGPROBS).tolist()[0]
        assert [number for number, each in enumerate(different) if each] == changed
