"""mlx-lm's continuous batching with an adapter for each row: one pass over the base for all of them.

`BatchGenerator` calls the model in two places, for the prompts that are being read and for the answers that are being
written, each a batch that knows its rows.  These are the batches here, which say whose rows they are before they call it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from .rows import Rows


class _Model:
    """The model, called with the rows of a batch."""

    def __init__(self, model: Any, rows: Rows, numbers: dict[int, int | None]) -> None:
        self._model, self._rows, self._numbers = model, rows, numbers

    def __call__(self, tokens: Any, **more: Any) -> Any:
        self._rows.require(*tokens.shape)
        return self._model(tokens, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def of(self, uids: list[int]) -> AbstractContextManager[None]:
        return self._rows.of(tuple(self._numbers[uid] for uid in uids))


class _Prompts(PromptProcessingBatch):  # type: ignore[misc]
    def prompt(self, tokens: list[list[int]]) -> None:
        with self.model.of(self.uids):
            super().prompt(tokens)

    def generate(self, tokens: list[list[int]]) -> Any:
        with self.model.of(self.uids):  # the first step of the answers is in it
            return super().generate(tokens)


class _Answers(GenerationBatch):  # type: ignore[misc]
    def _step(self) -> Any:
        with self.model.of(self.uids):
            return super()._step()


class OnePass(BatchGenerator):  # type: ignore[misc]
    """A generator whose rows have adapters.

    Attributes:
        numbers: of each sequence the number of its adapter, None for the base; to be set when it is put in.
    """

    def __init__(self, model: Any, rows: Rows, **options: Any) -> None:
        """Prepare.

        Args:
            model: mlx-lm's, with layers of `stacked`.
            rows: that those layers go by.
            options: of `BatchGenerator`.
        """
        self.numbers: dict[int, int | None] = {}
        super().__init__(_Model(model, rows, self.numbers), **options)
        self._prompt_batch = _Prompts.empty(
            self.model, self.sampler, prefill_step_size=self.prefill_step_size
        )
        self._generation_batch = _Answers.empty(self.model, self.sampler)
