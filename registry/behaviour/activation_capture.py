"""Activation capture: the inputs of a model's linear layers, on which rounding can be calibrated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .models import Model, batches
from .prompts import Sample

Inputs = NDArray[np.float32]


def inputs_of(
    model: Model,
    samples: Sequence[Sample],
    told: Callable[[str, Inputs], None],
    *,
    modules: Collection[str] | None = None,
) -> None:
    """Run a model over samples and pass on the inputs of each linear layer as it runs.  Nothing is stored.

    Layers of experts are left out: their inputs are sorted, so that padding cannot be recognised.

    Args:
        model: loaded with its large layers in NumPy (`Model.load(folder, numpy=True)`).
        samples: what to run; all their tokens count, also those that are not scored.
        told: called with a layer's path in the model and its inputs (tokens, in), which are not to be changed.
        modules: paths of the layers to capture; None for every linear layer.

    Raises:
        ValueError: the model's layers are left to mlx.
        ModelUnusableError: the model fails.
    """
    from .layers import LINEAR, watch

    if not model.numpy:
        raise ValueError("load the model with numpy=True to watch its layers")
    watched = {
        path: module
        for path, module in model.network.named_modules()
        if isinstance(module, LINEAR) and _asked_for(path, modules)
    }
    try:
        for positions, tokens in batches(samples):
            lengths = [len(samples[position].tokens) for position in positions]
            real = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
            for path, module in watched.items():
                watch(module, _teller(path, real, told))
            model.run(tokens, np.zeros(tokens.shape, bool))
    finally:
        for module in watched.values():
            watch(module, None)


def _asked_for(path: str, modules: Collection[str] | None) -> bool:
    # The layer that an adapter wraps is called by the wrapper, which is what is watched, under the layer's own path.
    return not path.endswith(".linear") if modules is None else path in modules


def _teller(
    path: str, real: NDArray[np.bool_], told: Callable[[str, Inputs], None]
) -> Callable[[Inputs], None]:
    def tell(values: Inputs) -> None:
        if values.shape[: real.ndim] == real.shape:
            told(path, values[real])

    return tell


@dataclass(slots=True)
class SecondMoment:
    """The inputs of a layer, summed up.

    Attributes:
        tokens: how many inputs.
        total: the sum of x x^T, (in, in), or of x * x, (in,), in float32.
    """

    tokens: int
    total: NDArray[np.float32]

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean of x x^T or of x * x."""
        return self.total / np.float32(max(self.tokens, 1))


def second_moments(
    model: Model,
    samples: Sequence[Sample],
    *,
    modules: Collection[str] | None = None,
    diagonal: bool = False,
) -> dict[str, SecondMoment]:
    """Return the second moment of each linear layer's inputs.

    Args:
        model: loaded with its large layers in NumPy.
        samples: what to run.
        modules: paths of the layers; None for every linear layer.
        diagonal: only the squares of each input, which take in rather than in * in numbers a layer.
    """
    found: dict[str, SecondMoment] = {}

    def add(path: str, inputs: Inputs) -> None:
        total = np.einsum("ti,ti->i", inputs, inputs) if diagonal else inputs.T @ inputs
        known = found.get(path)
        if known is None:
            found[path] = SecondMoment(len(inputs), total)
        else:
            known.tokens += len(inputs)
            known.total += total

    inputs_of(model, samples, add, modules=modules)
    return found
