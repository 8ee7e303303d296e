"""mlx-lm's `BatchGenerator` with an adapter for each row, in one pass over the base model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from ..registry.runtime.stacked import BatchRows

# prompts of different lengths, which a batch has to pad; short, since a processor computes few tokens a second
TRIED = ((5,), (6, 7, 8, 9), (10, 11))

NEAR = 0.05, 0.5
"""Largest difference of log probabilities in a batch from those of each prompt alone, relative to their spread: in float32, and
in 16 bits, which round differently in a wider batch and may choose another expert.  Over the classes of mlx-lm 0.32, wrong results
differ by two and more, right ones by 0.0002 and 0.01."""


class _Model:
    """The model, called with the rows of a batch."""

    def __init__(
        self, model: Any, rows: BatchRows, numbers: dict[int, int | None], starts: dict[int, int]
    ) -> None:
        self._model, self._rows, self._numbers, self._starts = model, rows, numbers, starts

    def __call__(self, tokens: Any, **more: Any) -> Any:
        self._rows.require(*tokens.shape)
        return self._model(tokens, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def of(self, uids: list[int]) -> AbstractContextManager[None]:
        return self._rows.of(tuple(self._numbers[uid] for uid in uids))

    def of_prompts(self, uids: list[int], computed: list[list[int]]) -> AbstractContextManager[None]:
        """Set the adapters of a pass over parts of prompts; `computed` has the tokens before each part."""
        pairs = zip(uids, map(len, computed), strict=True)
        return self._rows.of(
            tuple(self._numbers[uid] if n >= self._starts.get(uid, 0) else None for uid, n in pairs)
        )


class _Prompts(PromptProcessingBatch):  # type: ignore[misc]
    def prompt(self, tokens: list[list[int]]) -> None:
        with self.model.of_prompts(self.uids, self.tokens):
            super().prompt(tokens)

    def generate(self, tokens: list[list[int]]) -> Any:
        with self.model.of(self.uids):  # the first step of the answers is in it
            return super().generate(tokens)


class _Answers(GenerationBatch):  # type: ignore[misc]
    def _step(self) -> Any:
        with self.model.of(self.uids):
            return super()._step()


class AdapterBatchGenerator(BatchGenerator):  # type: ignore[misc]
    """A generator whose rows have adapters.

    By sequence (uid), `numbers` has the number of its adapter, None for the base, and `starts` the index of the first token that the
    adapter is active on.  Set both after inserting a sequence.  A segment of its prompt must end before that token.
    """

    def __init__(self, model: Any, rows: BatchRows, **options: Any) -> None:
        self.numbers: dict[int, int | None] = {}
        self.starts: dict[int, int] = {}
        super().__init__(_Model(model, rows, self.numbers, self.starts), **options)
        self._prompt_batch = _Prompts.empty(
            self.model, self.sampler, prefill_step_size=self.prefill_step_size
        )
        self._generation_batch = _Answers.empty(self.model, self.sampler)


def computes_batches(model: Any, rows: BatchRows, stream: Any) -> bool:
    """Return whether a class of mlx-lm computes padded prompts in a batch as it does alone; some forget the padding."""
    try:
        together = _first_steps(model, rows, stream, TRIED)
        alone = [_first_steps(model, rows, stream, [prompt])[0] for prompt in TRIED]
    except Exception:  # noqa: BLE001 - a model's class may raise any type
        return False
    for in_batch, by_itself in zip(together, alone, strict=True):
        for arrays in zip(in_batch, by_itself, strict=True):
            bound = NEAR[arrays[0].dtype != mx.float32]
            batch_logprobs, wanted = (array.astype(mx.float32) for array in arrays)
            spread = mx.sqrt(mx.mean((wanted - mx.mean(wanted)) ** 2))
            if not bool(mx.max(mx.abs(batch_logprobs - wanted)) <= bound * mx.maximum(spread, 1.0)):
                return False
    return True


def _first_steps(
    model: Any, rows: BatchRows, stream: Any, prompts: Sequence[Sequence[int]]
) -> list[list[mx.array]]:
    """Return the logarithms of the probabilities of two tokens after each prompt."""
    generator = AdapterBatchGenerator(model, rows, max_tokens=2, stream=stream)
    try:
        uids = generator.insert([list(prompt) for prompt in prompts])
        generator.numbers |= dict.fromkeys(uids)
        logprobs_by_uid: dict[int, list[mx.array]] = {uid: [] for uid in uids}
        for _ in range(2 * len(prompts) + 4):
            for answer in generator.next()[1]:
                logprobs_by_uid[answer.uid].append(answer.logprobs)
        return list(logprobs_by_uid.values())
    finally:
        generator.close()
