"""Two models on the same samples: one after the other, so that only one of them is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fusery.storage.progress import SILENT, Reporter, tally

from .compare import Floats, TokenScores, compare, losses
from .models import Logits, Model
from .prompts import Sample
from .sums import Weighted


@dataclass(frozen=True, slots=True)
class Source:
    """A model to load: a folder, and an adapter to put on it.

    Attributes:
        model: folder of a base or of a fused model.
        adapter: folder of an adapter, or None.
        others: further adapters, which are added to that one.
    """

    model: Path
    adapter: Path | None = None
    others: tuple[Weighted, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on some samples.

    Attributes:
        scores: for each sample, in their order.
        base_losses: for each sample, the losses of the base of `a`; empty if not requested.
    """

    scores: tuple[TokenScores, ...]
    base_losses: tuple[Floats, ...] = ()


def measure(
    a: Source,
    b: Source,
    samples: Sequence[Sample],
    *,
    with_base: bool = False,
    reporter: Reporter = SILENT,
) -> Measured:
    """Run both models over the samples and compare their predictions.

    The logits of `a` wait in a temporary file, 4 bytes for each scored token and each token of the vocabulary.

    Args:
        a: what is compared with, for the direction of the divergence.
        b: the other.
        samples: what both are to predict.
        with_base: measure the loss of `a` without its adapter, too.
        reporter: hears what is going on, and the tokens run and the total, over all models.

    Raises:
        MissingExtraError: mlx-lm is not installed.
        ModelUnusableError: a model cannot be loaded or run, or the two have vocabularies of different sizes.
    """
    base_losses: dict[int, Floats] = {}
    passes = 3 if with_base else 2
    told = tally(reporter.progress, passes * sum(len(sample.tokens) for sample in samples))

    def answers(model: Model) -> Iterator[tuple[int, Logits]]:
        for at, rows in model.answers(samples):
            yield at, rows
            told(len(samples[at].tokens))

    with tempfile.TemporaryFile(prefix="fusery-logits-") as file:
        model = Model.load(a.model)
        if with_base:
            reporter.say("the base answers")
            base_losses = {at: losses(rows, samples[at].targets) for at, rows in answers(model)}
        if a.adapter is not None:
            model.put_on(a.adapter, others=a.others)
        reporter.say("the first model answers")
        kept = _Kept.write(file, answers(model))
        del model
        model = Model.load(b.model)
        if b.adapter is not None:
            model.put_on(b.adapter, others=b.others)
        reporter.say("the second model answers")
        scores = {at: _compared(kept.rows(at), rows, samples[at]) for at, rows in answers(model)}
    order = range(len(samples))
    return Measured(
        tuple(scores[at] for at in order), tuple(base_losses[at] for at in order) if with_base else ()
    )


def _compared(a: Logits, b: Logits, sample: Sample) -> TokenScores:
    from ..errors import ModelUnusableError

    if a.shape != b.shape:
        raise ModelUnusableError(
            f"the two models have vocabularies of different sizes, {a.shape[-1]} and {b.shape[-1]}"
        )
    return compare(a, b, sample.targets)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Logits in a file, one sample after the other."""

    file: IO[bytes]
    places: dict[int, tuple[int, tuple[int, ...]]]

    @classmethod
    def write(cls, file: IO[bytes], answers: Iterator[tuple[int, Logits]]) -> _Kept:
        places = {}
        for at, rows in answers:
            places[at] = (file.tell(), rows.shape)
            file.write(np.ascontiguousarray(rows).data)
        file.flush()
        return cls(file, places)

    def rows(self, at: int) -> Logits:
        start, shape = self.places[at]
        found: Any = np.memmap(self.file, np.float32, "r", start, shape)
        return np.asarray(found)
