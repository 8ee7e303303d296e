"""How tokens are chosen: what mlx-lm would choose, and with a seed the same again."""

from __future__ import annotations

import mlx.core as mx
import pytest

from fusery.model_server.sampling import Sampling, make_processors, make_sampler

LOGPROBS = mx.log(mx.array([[0.4, 0.3, 0.2, 0.06, 0.04]]))
ROWS = mx.repeat(LOGPROBS, 30, axis=0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    mx.random.seed(3)  # of which requests without a seed draw


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
    assert {int(token) for _ in range(10) for token in sample(ROWS).tolist()} == expected


@pytest.mark.parametrize("penalty", ["presence", "frequency", "repetition"])
def test_penalties_change_the_tokens_before(penalty: str) -> None:
    (process,) = make_processors(Sampling(**{f"{penalty}_penalty": 2.0}))  # type: ignore[arg-type]
    different = (process(mx.array([0, 1, 2]), LOGPROBS[:]) != LOGPROBS).tolist()[0]
    assert different == [True, True, True, False, False]
