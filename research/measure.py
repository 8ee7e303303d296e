"""Two models on the same samples: one after the other, so that only one of them is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.progress import SILENT, Reporter, tally

from .models import LoadedModel, Logits
from .prompts import Sample


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to load: a folder, and an adapter to put on it."""

    model: Path
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What was measured on some samples."""

    scores: tuple[TokenScores, ...]
    base_losses: tuple[Floats, ...] = ()


def measure(
    a: ModelSource,
    b: ModelSource,
    samples: Sequence[Sample],
    *,
    with_base: bool = False,
    reporter: Reporter = SILENT,
) -> ModelScores:
    """Run both models over the samples and compare their predictions.

    The logits of `a` wait in a temporary file, 4 bytes for each scored token and each token of the vocabulary.
    """
    base_losses: dict[int, Floats] = {}
    passes = 3 if with_base else 2
    told = tally(reporter.progress, passes * sum(len(sample.tokens) for sample in samples))

    def answers(model: LoadedModel) -> Iterator[tuple[int, Logits]]:
        for at, rows in model.answers(samples):
            yield at, rows
            told(len(samples[at].tokens))

    with tempfile.TemporaryFile(prefix="fusery-logits-") as file:
        model = LoadedModel.load(a.model)
        if with_base:
            reporter.say("the base answers")
            base_losses = {at: losses(rows, samples[at].targets) for at, rows in answers(model)}
        if a.adapter is not None:
            model.put_on(a.adapter)
        reporter.say("the first model answers")
        kept = _Kept.write(file, answers(model))
        del model
        model = LoadedModel.load(b.model)
        if b.adapter is not None:
            model.put_on(b.adapter)
        reporter.say("the second model answers")
        scores = {at: _compared(kept.rows(at), rows, samples[at]) for at, rows in answers(model)}
    order = range(len(samples))
    return ModelScores(
        tuple(scores[at] for at in order), tuple(base_losses[at] for at in order) if with_base else ()
    )


def _compared(a: Logits, b: Logits, sample: Sample) -> TokenScores:
    from fusery.registry.errors import ModelUnusableError

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


Floats = NDArray[np.float64]

_CHUNK_BYTES = 32 << 20
_LOWEST = -1e4
"""Below the highest logit: exp of it is 0, and differences of such logarithms stay finite, also for a logit of -inf."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What two models predicted for some tokens; each array has one number a token."""

    kl: Floats  # divergence of b's prediction from a's, sum of p_a (log p_a - log p_b), in nats
    same: NDArray[np.bool_]  # both give the highest probability to the same token
    loss_a: Floats  # -log p_a of the token that follows in the text, in nats
    loss_b: Floats

    @classmethod
    def joined(cls, parts: Iterable[TokenScores]) -> TokenScores:
        """Return the scores of several texts as those of one."""
        listed = list(parts)
        return cls(
            np.concatenate([part.kl for part in listed]),
            np.concatenate([part.same for part in listed]),
            np.concatenate([part.loss_a for part in listed]),
            np.concatenate([part.loss_b for part in listed]),
        )


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Return the logarithms of the probabilities that logits (tokens, vocabulary) stand for, at least about -10000."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.maximum(shifted, _LOWEST, out=shifted)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def compare(a: NDArray[np.float32], b: NDArray[np.float32], targets: NDArray[np.int64]) -> TokenScores:
    """Compare two models' predictions of the same tokens.

    Args:
        a: logits (tokens, vocabulary) of the model that is compared with.
        b: logits of the other.
    """
    kl, same = np.empty(len(targets)), np.empty(len(targets), np.bool_)
    loss_a, loss_b = np.empty(len(targets)), np.empty(len(targets))
    for part in _parts(a):
        log_a, log_b = log_softmax(a[part]), log_softmax(b[part])
        rows = np.arange(len(log_a))
        loss_a[part], loss_b[part] = -log_a[rows, targets[part]], -log_b[rows, targets[part]]
        same[part] = log_a.argmax(axis=-1) == log_b.argmax(axis=-1)
        # p log(p/q) - p + q is never negative, where the plain sum loses a small divergence to cancellation.
        p, q = np.exp(log_a), np.exp(log_b)
        log_a -= log_b
        log_a *= p
        kl[part] = np.maximum((log_a - p + q).sum(axis=-1), 0)
    return TokenScores(kl, same, loss_a, loss_b)


def losses(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Floats:
    """Return -log p of each target under logits (tokens, vocabulary), in nats."""
    found = np.empty(len(targets))
    for part in _parts(logits):
        logs = log_softmax(logits[part])
        found[part] = -logs[np.arange(len(logs)), targets[part]]
    return found


def _parts(logits: NDArray[np.float32]) -> Iterable[slice]:
    step = max(1, _CHUNK_BYTES // (8 * logits.shape[-1]))
    return (slice(start, min(start + step, len(logits))) for start in range(0, len(logits), step))
