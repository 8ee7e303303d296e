"""Learn the scales and biases of a fused model: distillation of base + adapter, token by token, as in mlx-lm's `dwq.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from fusery.registry.errors import ModelUnusableError

from .layers import LINEAR, differentiable, functions_in_numpy, matrix
from .models import LoadedModel, batches, reported, uncompiled
from .prompts import Sample

Matrix = NDArray[np.float32]

LONGEST = 256  # tokens of a sample that are learned from: what every layer computed is in memory until it was gone back through
BATCH = 1024  # tokens of a step, at least
RATE = 5e-4  # of Adam, for scales as shares of themselves, and for biases as shares of scales
_FIRST, _SECOND, _SMALL = 0.9, 0.98, 1e-8
_WARM, _LAST = 10, 0.1  # steps in which the rate grows, and what share of it is left at the end
# steps of the grid by which no number moves farther: a fuse refuses what was learned for another
_FARTHEST = 0.5
# Every so manieth sample is put aside, and fewer of so many that they would have more tokens than that
_HELD, _MOST_HELD_OUT = 16, 2048
_SEED = 1873


@dataclass(frozen=True, slots=True)
class LayerScales:
    """Scales and biases of a layer, float32 (rows, groups)."""

    scales: Matrix
    biases: Matrix


@dataclass(frozen=True, slots=True)
class LearnedScales:
    """The learned scales of a model."""

    layers: Mapping[str, LayerScales]  # by path, those that the fuse had given scales of their own
    steps: int
    tokens: int
    before: float  # mean divergence from base + adapter in nats per token, on the texts put aside
    after: float  # the same of what was learned, as it will be stored


@dataclass(slots=True)
class _Layer:
    module: Any
    form: Any  # mlx's, in which they are stored
    start: LayerScales  # as the fuse has written them
    moved: Matrix  # by how much of a scale both have changed, (2, rows, groups)
    gradient: Matrix  # of this step's tokens so far, by `moved`
    mean: Matrix  # of the gradients of the steps, as Adam takes it
    square: Matrix  # likewise

    @classmethod
    def of(cls, module: Any) -> _Layer:
        start = LayerScales(*(matrix(module[part]).copy() for part in ("scales", "biases")))
        zeros = np.zeros((4, 2, *start.scales.shape), np.float32)
        return cls(module, module["scales"].dtype, start, *zeros)

    def now(self) -> LayerScales:
        scales, biases = self.start.scales, self.start.biases
        return LayerScales(scales + scales * self.moved[0], biases + scales * self.moved[1])

    def stored(self) -> LayerScales:
        """Return what will be stored: rounded to the format in which the fuse has written them."""
        now = self.now()
        return LayerScales(*(matrix(mx.array(part).astype(self.form)) for part in (now.scales, now.biases)))

    def put(self, numbers: LayerScales) -> None:
        self.module["scales"], self.module["biases"] = mx.array(numbers.scales), mx.array(numbers.biases)

    def add(self, inputs: Matrix, gradient: Matrix) -> None:
        rows, groups = self.start.scales.shape
        by_weight: Matrix = (gradient.T @ inputs).reshape(rows, groups, -1)
        form = {"group_size": self.module.group_size, "bits": self.module.bits}
        ones, zeros = mx.ones((rows, groups)), mx.zeros((rows, groups))
        codes = matrix(mx.dequantize(self.module["weight"], ones, zeros, **form)).reshape(by_weight.shape)
        self.gradient[0] += np.einsum("rgi,rgi->rg", by_weight, codes) * self.start.scales
        self.gradient[1] += by_weight.sum(axis=2) * self.start.scales

    def step(self, number: int, rate: float, tokens: int) -> None:
        slope = self.gradient / np.float32(tokens)
        self.mean += np.float32(1 - _FIRST) * (slope - self.mean)
        self.square += np.float32(1 - _SECOND) * (slope * slope - self.square)
        size = rate * np.sqrt(1 - _SECOND**number) / (1 - _FIRST**number)
        self.moved -= np.float32(size) * self.mean / (np.sqrt(self.square) + np.float32(_SMALL))
        if not np.isfinite(self.moved).all():
            raise ModelUnusableError("the gradient of the scales is not finite")
        most = _FARTHEST / 2**self.module.bits
        np.clip(self.moved, -most, most, out=self.moved)
        self.gradient[:] = 0
        self.put(self.now())


def learn_scales(
    fused: LoadedModel,
    adapted: LoadedModel,
    samples: Sequence[Sample],
    *,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> LearnedScales:
    """Learn the scales and biases of a fused model, which has them afterwards; both models are loaded with numpy=True."""
    layers = {path: _Layer.of(module) for path, module in _moved_layers(fused, adapted)}
    if not layers:
        raise ModelUnusableError("the fused model has the base's scales: nothing can be learned")
    learned_from, held_out_samples = _parted(samples)
    before = _divergence(fused, adapted, held_out_samples)
    total = 0
    for number, batch in enumerate(_batches(learned_from, steps), start=1):
        tokens = sum(len(sample.tokens) for sample in batch)
        for _, ids, rows in batches(batch):
            _go_back(fused, ids, rows, np.exp(_answers(adapted, ids, rows)), layers)
        rate = RATE * min(1.0, number / _WARM) * (1 - (1 - _LAST) * (number - 1) / steps)
        for layer in layers.values():
            layer.step(number, rate, tokens)
        total += tokens
        if progress is not None:
            progress(number, steps)
    stored_scales = {path: layer.stored() for path, layer in layers.items()}
    for path, layer in layers.items():
        layer.put(stored_scales[path])
    return LearnedScales(stored_scales, steps, total, before, _divergence(fused, adapted, held_out_samples))


def _moved_layers(fused: LoadedModel, adapted: LoadedModel) -> Iterator[tuple[str, Any]]:
    others = dict(adapted.network.named_modules())
    for path, module in fused.network.named_modules():
        quantised = isinstance(module, LINEAR) and "scales" in module and module.mode == "affine"
        if not (quantised and path in others):
            continue
        other = others[path]
        other = other.linear if "lora_a" in other else other
        if "scales" in other and not np.array_equal(matrix(other["scales"]), matrix(module["scales"])):
            yield path, module


def _parted(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    # Of all of them alike: texts of one kind are together, and those of the task last.
    cut = [Sample(sample.label, sample.tokens[:LONGEST], 1) for sample in samples]
    tokens = sum(len(sample.tokens) for sample in cut)
    apart = max(min(_HELD, len(cut)), -(-tokens // _MOST_HELD_OUT))
    return [sample for number, sample in enumerate(cut) if number % apart], cut[::apart]


def _batches(samples: Sequence[Sample], steps: int) -> Iterator[list[Sample]]:
    """Yield a batch for each step; all samples come once before one comes again."""
    random, order = np.random.default_rng(_SEED), list[int]()
    for _ in range(steps):
        batch: list[Sample] = []
        while sum(len(sample.tokens) for sample in batch) < BATCH:
            if not order:
                order = random.permutation(len(samples)).tolist()
            batch.append(samples[order.pop()])
        yield batch


def _answers(model: LoadedModel, tokens: NDArray[np.int32], rows: NDArray[np.bool_]) -> Matrix:
    """Return the log-probabilities (tokens, vocabulary) of the next token, after each token in the mask `rows`."""
    logits = model.run(tokens, rows)
    below: Matrix = logits - logits.max(axis=1, keepdims=True)
    below -= np.log(np.exp(below).sum(axis=1, keepdims=True))
    return below


def _divergence(fused: LoadedModel, adapted: LoadedModel, samples: Sequence[Sample]) -> float:
    total = count = 0.0
    for _, tokens, rows in batches(samples):
        wanted, fused_answers = _answers(adapted, tokens, rows), _answers(fused, tokens, rows)
        total += float((np.exp(wanted) * (wanted - fused_answers)).sum(dtype=np.float64))
        count += len(wanted)
    if not np.isfinite(total):
        raise ModelUnusableError("the answers of the fused model differ by what is not finite")
    return total / count


def _go_back(
    fused: LoadedModel,
    tokens: NDArray[np.int32],
    rows: NDArray[np.bool_],
    wanted: Matrix,  # probabilities (tokens, vocabulary) of base + adapter
    layers: Mapping[str, _Layer],
) -> None:
    @mx.custom_function
    def loss(logits: Any) -> Any:
        return mx.zeros(())  # only the gradient of the KL divergence is used

    @loss.vjp
    def by_logits(logits: Any, *_: Any) -> Any:
        gradient, slopes = np.zeros(logits.shape, np.float32), matrix(logits)[rows]
        np.exp(slopes - slopes.max(axis=1, keepdims=True), out=slopes)
        slopes /= slopes.sum(axis=1, keepdims=True)
        gradient[rows] = slopes - wanted
        return mx.array(gradient).astype(logits.dtype)

    def moved_loss(moved: Any) -> Any:
        with differentiable(fused.network, {path: layer.add for path, layer in layers.items()}, moved):
            return loss(fused.network(mx.array(tokens)))

    with uncompiled(mx), functions_in_numpy(), reported("the model cannot be gone back through"):
        mx.eval(mx.grad(moved_loss)(mx.zeros(())))
