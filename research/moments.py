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
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.registry.errors import ModelUnusableError

from .models import LoadedModel, batches
from .prompts import Sample

Matrix = NDArray[np.float64]
Inputs = NDArray[np.float32]

SPARE = 16  # how many directions are followed besides those that are wanted, so that the last of those are right, too
PASSES = 2
_SEED = 1871
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What goes into one or several linear layers."""

    # float64 (n, K), eigenvectors of about H, times the roots of their eigenvalues, largest first
    directions: Matrix
    diagonal: Matrix  # float64 (n,), of H, exact


@dataclass(frozen=True, slots=True)
class Moments:
    """What goes into all linear layers of a model."""

    modules: dict[str, str]  # path of a layer to the key of its input; layers with one input have one key
    inputs: dict[str, Moment]  # by key


@dataclass(slots=True)
class _Pass:
    """One run over all samples: H times a basis, summed up for each input."""

    basis: Callable[[str, int], NDArray[Any]]  # what H is multiplied with, by key
    # path of a layer to the key of its input, which is the path of the first layer that has it
    modules: dict[str, str]
    images: dict[str, NDArray[Any]] = field(default_factory=dict)  # sum of x (x^T basis), by key
    squares: dict[str, Matrix] = field(default_factory=dict)  # sum of x * x, by key
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
    model: LoadedModel,
    samples: Sequence[Sample],
    rank: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Moments:
    """Return the largest directions of each linear layer's inputs.

    The same model, samples and libraries give the same numbers: what is random has a fixed seed.

    Args:
        rank: how many directions are wanted of each input; there are fewer where it has fewer numbers.
    """
    tokens = sum(len(sample.tokens) for sample in samples)
    done, counted = 0, ""

    def run(one: _Pass) -> None:
        def add(path: str, inputs: Inputs) -> None:
            nonlocal done, counted
            one.add(path, inputs)
            counted = counted or path  # tokens are counted by the first layer's inputs
            if path == counted and progress is not None:
                done += len(inputs)
                progress(done, PASSES * tokens)

        # Inputs that are not finite are refused, so NumPy need not warn of them.
        with np.errstate(invalid="ignore", over="ignore"):
            inputs_of(model, samples, add)

    random = _random(rank + SPARE)
    first = _Pass(lambda _, width: random(width), {})
    run(first)
    if not first.images:
        raise ModelUnusableError("the model has no linear layers that could be watched")
    bases = {key: _orthonormal(first.images.pop(key)) for key in list(first.images)}
    second = _Pass(lambda key, _: bases[key], first.modules)
    run(second)
    inputs = {
        key: Moment(_directions(basis, second.images.pop(key) / tokens, rank), second.squares[key] / tokens)
        for key, basis in bases.items()
    }
    return Moments(first.modules, inputs)


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
    """Return U (n, rank) with U U^T about H."""
    core = basis.T @ image
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    kept = values > max(values[-1], 0.0) * _NEGLIGIBLE
    half = image @ (vectors[:, kept] / np.sqrt(values[kept]))
    left, sizes, _ = np.linalg.svd(half, full_matrices=False)
    found = np.zeros((len(basis), min(rank, basis.shape[1])))
    count = min(found.shape[1], len(sizes))
    found[:, :count] = left[:, :count] * sizes[:count]
    return found


def inputs_of(model: LoadedModel, samples: Sequence[Sample], report: Callable[[str, Inputs], None]) -> None:
    """Run a model over samples and report the inputs of each linear layer as it runs.  Nothing is stored.

    Layers of experts are left out: their inputs are sorted, so that padding cannot be recognised.

    Args:
        report: called with a layer's path in the model and its inputs (tokens, in), which are not to be changed.
    """
    from .layers import LINEAR, watch

    if not model.numpy:
        raise ValueError("load the model with numpy=True to watch its layers")
    # The layer that an adapter wraps is called by the wrapper, which is watched under the layer's own path.
    watched = {
        path: module
        for path, module in model.network.named_modules()
        if isinstance(module, LINEAR) and not path.endswith(".linear")
    }

    def without_padding(path: str, real: NDArray[np.bool_], values: Inputs) -> None:
        if values.shape[: real.ndim] == real.shape:
            report(path, values[real])

    try:
        for positions, tokens in batches(samples):
            lengths = [len(samples[position].tokens) for position in positions]
            real = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
            for path, module in watched.items():
                watch(module, partial(without_padding, path, real))
            model.run(tokens, np.zeros(tokens.shape, bool))
    finally:
        for module in watched.values():
            watch(module, None)
