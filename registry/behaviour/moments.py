"""The largest directions of the inputs of a model's linear layers, found without holding their matrix.

For inputs x of n numbers, H is the mean of x x^T.  H itself would take n * n numbers for each input; a model of eight
billion weights has some 130 inputs of up to 14336.  So H is only ever multiplied with a few vectors, as the model runs:
once with random ones, whose images span the large directions, and once with a basis of those (the randomised range
finder of Halko, Martinsson and Tropp, arXiv:0909.4061, algorithm 4.4 with one iteration).  From H Q the approximation of
Nystroem follows, H ~ (H Q) (Q^T H Q)^-1 (H Q)^T, which is never larger than H (algorithm 5.5 there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelUnusableError
from .activation_capture import Inputs, inputs_of
from .models import Model
from .prompts import Sample

Matrix = NDArray[np.float64]

SPARE = 16
"""How many directions are followed besides those that are wanted, so that the last of those are right, too."""
PASSES = 2
_SEED = 1871
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What goes into one or several linear layers.

    Attributes:
        directions: float64 (n, K), eigenvectors of about H, times the roots of their eigenvalues, largest first.
        diagonal: float64 (n,), of H, exact.
    """

    directions: Matrix
    diagonal: Matrix


@dataclass(frozen=True, slots=True)
class Moments:
    """What goes into all linear layers of a model.

    Attributes:
        modules: path of a layer to the key of its input; layers with one input have one key.
        inputs: by key.
    """

    modules: dict[str, str]
    inputs: dict[str, Moment]


@dataclass(slots=True)
class _Pass:
    """One run over all samples: H times a basis, summed up for each input.

    Attributes:
        basis: what H is multiplied with, by key.
        modules: path of a layer to the key of its input, which is the path of the first layer that has it.
        images: sum of x (x^T basis), by key.
        squares: sum of x * x, by key.
    """

    basis: Callable[[str, int], NDArray[Any]]
    modules: dict[str, str]
    images: dict[str, NDArray[Any]] = field(default_factory=dict)
    squares: dict[str, Matrix] = field(default_factory=dict)
    _seen: dict[bytes, str] = field(default_factory=dict)

    def add(self, path: str, inputs: Inputs) -> None:
        """Take in what a layer multiplies."""
        key = self.modules.get(path)
        if key is None:
            # Layers that share an input get the very same numbers, so that these tell which they are.
            key = self.modules[path] = self._seen.setdefault(sha256(inputs.tobytes()).digest(), path)
        if key != path:
            return
        basis = self.basis(key, inputs.shape[-1])
        exact = inputs.astype(np.float64)
        # In the precision of the basis: to find a span takes less than to find numbers.
        rows = exact if basis.dtype == np.float64 else inputs
        image = rows.T @ (rows @ basis)
        squares = np.einsum("ti,ti->i", exact, exact)
        if not np.isfinite(squares).all():
            raise ModelUnusableError(f"what goes into {path} is not finite")
        if key in self.images:
            self.images[key] += image
            self.squares[key] += squares
        else:
            self.images[key], self.squares[key] = image, squares


def moments(
    model: Model,
    samples: Sequence[Sample],
    rank: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Moments:
    """Return the largest directions of each linear layer's inputs.

    The same model, samples and libraries give the same numbers: what is random has a fixed seed.

    Args:
        model: loaded with its large layers in NumPy (`Model.load(folder, numpy=True)`).
        samples: what to run, twice; all their tokens count.
        rank: how many directions are wanted of each input; there are fewer where it has fewer numbers.
        progress: called with the tokens run and the total.

    Raises:
        ModelUnusableError: the model fails, its inputs are not finite, or it has no linear layers.
    """
    tokens = sum(len(sample.tokens) for sample in samples)
    report = _Reporter(progress, PASSES * tokens)
    random = _random(rank + SPARE)
    first = _Pass(lambda _, width: random(width), {})
    _run(model, samples, report.then(first.add))
    if not first.images:
        raise ModelUnusableError("the model has no linear layers that could be watched")
    bases = {key: _orthonormal(first.images.pop(key)) for key in list(first.images)}
    second = _Pass(lambda key, _: bases[key], first.modules)
    _run(model, samples, report.then(second.add))
    found = {
        key: Moment(
            _directions(bases[key], second.images.pop(key) / tokens, rank), second.squares[key] / tokens
        )
        for key in bases
    }
    return Moments(first.modules, found)


def _run(model: Model, samples: Sequence[Sample], told: Callable[[str, Inputs], None]) -> None:
    # What is not finite is found in what a layer gets, so NumPy need not warn of it.
    with np.errstate(invalid="ignore", over="ignore"):
        inputs_of(model, samples, told)


class _Reporter:
    """Counts tokens by what the first layer that is heard of gets."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._first = ""

    def then(self, add: Callable[[str, Inputs], None]) -> Callable[[str, Inputs], None]:
        def told(path: str, inputs: Inputs) -> None:
            add(path, inputs)
            self._first = self._first or path
            if path == self._first and self._progress is not None:
                self._done += len(inputs)
                self._progress(self._done, self._total)

        return told


def _random(count: int) -> Callable[[int], Inputs]:
    """Return what gives random vectors (width, count), float32, the same for the same width."""
    known: dict[int, Inputs] = {}

    def vectors(width: int) -> Inputs:
        if width not in known:
            generator = np.random.default_rng(_SEED)
            known[width] = generator.standard_normal((width, min(count, width)), np.float32)
        return known[width]

    return vectors


def _orthonormal(images: NDArray[Any]) -> Matrix:
    basis: Matrix = np.linalg.qr(images.astype(np.float64))[0]
    return basis


def _directions(basis: Matrix, image: Matrix, rank: int) -> Matrix:
    """Return U (n, rank) with U U^T about H.

    Args:
        basis: Q (n, k), orthonormal.
        image: H Q.
        rank: how many columns, at most k.
    """
    core = basis.T @ image
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    kept = values > max(values[-1], 0.0) * _NEGLIGIBLE
    half = image @ (vectors[:, kept] / np.sqrt(values[kept]))
    left, sizes, _ = np.linalg.svd(half, full_matrices=False)
    found = np.zeros((len(basis), min(rank, basis.shape[1])))
    count = min(found.shape[1], len(sizes))
    found[:, :count] = left[:, :count] * sizes[:count]
    return found
