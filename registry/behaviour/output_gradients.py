"""Output gradients: what the loss says about each output of a model's linear layers, on which rounding can be calibrated.

The labels are drawn from the model's own answers, so that the mean of g g^T is the second derivative of how far a changed
model's answers are from its own (KL divergence) by a layer's outputs, as far as one layer is looked at (Fisher's
information; YAQA, Tseng et al., arXiv:2505.22988).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .models import Model, reported, uncompiled
from .prompts import Sample

Matrix = NDArray[np.float32]

LONGEST = 512
"""Tokens of a sample that are gone back through: what every layer computed is in memory until then."""


def gradients_of(
    model: Model, samples: Sequence[Sample], told: Callable[[str, Matrix, Matrix], None], *, seed: int
) -> None:
    """Run a model over samples, one after the other, and back, and pass on what its linear layers get to see.

    Layers of experts are left out, and the head, whose outputs are the answers themselves.

    Args:
        model: loaded with its large layers in NumPy, without an adapter.
        samples: what to run; of a long one the first `LONGEST` tokens.
        told: called with a layer's path, its inputs (tokens, in) and the gradient (tokens, out) of the sum of all
            tokens' losses by its outputs; neither is to be changed.
        seed: of the labels.

    Raises:
        ValueError: the model's layers are left to mlx.
        ModelUnusableError: the model cannot be gone back through.
    """
    import mlx.core as mx

    from .layers import differentiable

    if not model.numpy:
        raise ValueError("load the model with numpy=True to watch its layers")
    for number, sample in enumerate(samples):
        tokens = np.array([sample.tokens[:LONGEST]], np.int32)
        random = np.random.default_rng((seed, number))

        def loss(moved: Any, tokens: Any = tokens, random: Any = random) -> Any:
            with differentiable(model.network, told, moved):
                logits = model.network(mx.array(tokens)).astype(mx.float32)[0]
            labels = mx.array(_drawn(np.asarray(mx.stop_gradient(logits)), random))
            picked = mx.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
            return (mx.logsumexp(logits, axis=1) - picked).sum()

        with uncompiled(mx), reported("the model cannot be gone back through"):
            mx.eval(mx.grad(loss)(mx.zeros(())))


def _drawn(logits: Matrix, random: np.random.Generator) -> NDArray[np.int32]:
    """Return one token for each row of logits, as likely as the model says."""
    shares = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    sums = np.cumsum(shares, axis=1)
    places = random.random(len(logits)) * sums[:, -1]
    return np.array(
        [np.searchsorted(row, place, side="right") for row, place in zip(sums, places, strict=True)], np.int32
    ).clip(max=logits.shape[1] - 1)
