"""How far two models' predictions are apart, token by token, from their logits alone.  Pure NumPy, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CHUNK_BYTES = 32 << 20
_LOWEST = -1e4
"""Below the highest logit: exp of it is 0, and differences of such logarithms stay finite, also for a logit of -inf."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What two models predicted for some tokens; each array has one number a token.

    Attributes:
        kl: divergence of b's prediction from a's, sum of p_a (log p_a - log p_b), in nats.
        same: both give the highest probability to the same token.
        loss_a: -log p_a of the token that follows in the text, in nats.
        loss_b: the same of b.
    """

    kl: Floats
    same: NDArray[np.bool_]
    loss_a: Floats
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
        targets: the tokens that follow in the text.
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
