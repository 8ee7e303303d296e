"""What a language model does, as numbers: loss on answers, exact answers, and how near two models' predictions are.

Models are run in float32 on the exact values that their weights stand for, so that differences come from the weights
and from nothing else.  mlx multiplies float32 matrices fast on a Mac; on a Linux CPU it does with a fast BLAS
preloaded, e.g. `LD_PRELOAD=/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3` with Debian's libopenblas0-pthread,
and MLX_DISABLE_COMPILE=1 saves the minute that its compiler takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BATCH = 16
_JUDGED = 1024
"""Tokens of a batch that are judged, about: their logits are in memory several times over."""
_MARGIN = 64
"""Sequences may be this many tokens shorter than the longest of their batch."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence of tokens, of which those from `start` on are predicted and judged."""

    tokens: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model predicts at each judged token of some samples.

    Attributes:
        logprobs: (n, vocabulary) float32.
        targets: (n,), the tokens that come.
        owners: (n,), which sample each belongs to.
    """

    logprobs: Array
    targets: Array
    owners: Array

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats."""
        return -float(self.logprobs[np.arange(len(self.targets)), self.targets].mean(dtype=np.float64))

    @property
    def exact(self) -> float:
        """Share of samples whose every judged token is the likeliest one, which is what greedy decoding writes."""
        right = self.logprobs.argmax(axis=1) == self.targets
        wrong = np.bincount(self.owners, weights=~right)
        return float((wrong == 0).mean())


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near predictions are to reference ones: mean KL(reference || other) in nats, same likeliest token."""

    kl: float
    top1: float


def load_model(folder: Path) -> Any:
    """Load a model folder in float32, quantised layers as dense ones with the exact values they stand for."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model as load

    model = load(folder, lazy=True)[0]
    _dequantize(model)
    model.update(tree_map(lambda value: value.astype(mx.float32), model.parameters()))
    mx.eval(model.parameters())
    return model


def _dequantize(model: Any) -> None:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_unflatten

    dense: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            continue
        # In float32, scale * code + bias is exact enough; in the scales' own bf16 it would be rounded once more.
        affine = module.mode == "affine"
        scales = module.scales.astype(mx.float32) if affine else module.scales
        biases = module.biases.astype(mx.float32) if affine else None
        weight = mx.dequantize(
            module.weight, scales, biases, group_size=module.group_size, bits=module.bits, mode=module.mode
        )
        into: Any
        if isinstance(module, nn.QuantizedLinear):
            into = nn.Linear(1, 1, bias="bias" in module)
            if "bias" in module:
                into.bias = module.bias
        else:
            into = nn.Embedding(1, 1)
        into.weight = weight
        dense.append((path, into))
    model.update_modules(tree_unflatten(dense))


def add_adapter(model: Any, adapter: Path, scale: float | None = None, factor: float = 1.0) -> float:
    """Add an adapter's update to the weights of a float32 model; return |update| / |weights| over what it touches.

    Args:
        model: of `load_model`.
        adapter: a folder as `mlx_lm.lora` writes it, LoRA on linear layers.
        scale: instead of the adapter's own.
        factor: multiplies the scale; -1 takes an added adapter away again, to rounding.
    """
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = factor * (settings["lora_parameters"]["scale"] if scale is None else scale)
    tensors = mx.load(str(adapter / "adapters.safetensors"))
    modules = dict(model.named_modules())
    updates: list[tuple[str, Any]] = []
    squares = [0.0, 0.0]
    for name in sorted(name for name in tensors if name.endswith(".lora_a")):
        path = name.removesuffix(".lora_a")
        a, b = (tensors[f"{path}.{part}"].astype(mx.float32) for part in ("lora_a", "lora_b"))
        update, weight = (scale * b.T) @ a.T, modules[path].weight
        updates.append((f"{path}.weight", weight + update))
        for index, value in enumerate((update, weight)):
            squares[index] += float(mx.sum(mx.square(value)).item())
    model.update(tree_unflatten(updates))
    mx.eval(model.parameters())
    return math.sqrt(squares[0] / squares[1])


def read_dialogues(file: Path) -> list[list[dict[str, str]]]:
    """Return the dialogues of a JSON Lines file of `{"messages": [...]}`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder."""
    from mlx_lm.utils import load_tokenizer as load

    return load(folder)


def dialogue_samples(tokenizer: Any, dialogues: Iterable[list[dict[str, str]]]) -> list[Sample]:
    """Return dialogues as samples in which the last message is judged, as `mlx_lm.lora --mask-prompt` does."""
    samples = []
    for messages in dialogues:
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        samples.append(Sample(tuple(whole), len(prompt)))
    return samples


def text_samples(tokenizer: Any, texts: Iterable[str], limit: int) -> list[Sample]:
    """Return running texts as samples of at most `limit` tokens; all but the first token are judged."""
    return [Sample(tuple(tokenizer.encode(text)[:limit]), 1) for text in texts]


def predict(model: Any, samples: Sequence[Sample]) -> Predictions:
    """Run a model over samples."""
    import mlx.core as mx

    logprobs, targets, owners = [], [], []
    for numbers in _batches(samples):
        batch = [samples[number] for number in numbers]
        logits = judged_logits(model, batch)
        values = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        logprobs.append(np.array(values))
        targets += [token for sample in batch for token in sample.tokens[sample.start :]]
        owners += [n for n, one in zip(numbers, batch, strict=True) for _ in one.tokens[one.start :]]
    return Predictions(np.concatenate(logprobs), np.array(targets), np.array(owners))


def judged_logits(model: Any, batch: Sequence[Sample]) -> Any:
    """Return the logits (n, vocabulary) that predict the judged tokens of a batch, sample after sample.

    The head, which is a large part of a small model, is applied to these positions only.
    """
    import mlx.core as mx

    length = max(len(sample.tokens) for sample in batch)
    padded = [[*sample.tokens, *[0] * (length - len(sample.tokens))] for sample in batch]
    hidden = model.model(mx.array(padded))
    places = [
        row * length + position - 1
        for row, sample in enumerate(batch)
        for position in range(sample.start, len(sample.tokens))
    ]
    chosen = hidden.reshape(-1, hidden.shape[-1])[mx.array(places)]
    head = getattr(model, "lm_head", None)
    return model.model.embed_tokens.as_linear(chosen) if head is None else head(chosen)


def _batches(samples: Sequence[Sample]) -> Iterator[list[int]]:
    """Yield the numbers of samples of about one length, together."""
    order = sorted(range(len(samples)), key=lambda number: len(samples[number].tokens))
    batch: list[int] = []
    for number in order:
        longer = batch and len(samples[number].tokens) - len(samples[batch[0]].tokens) > _MARGIN
        judged = sum(len(samples[other].tokens) - samples[other].start for other in batch)
        if len(batch) == _BATCH or longer or judged >= _JUDGED:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def compare(reference: Predictions, other: Predictions) -> Nearness:
    """Compare predictions on the same samples."""
    kl = 0.0
    for p, q in zip(reference.logprobs, other.logprobs, strict=True):
        kl += float(np.dot(np.exp(p), p - q))
    same = reference.logprobs.argmax(axis=1) == other.logprobs.argmax(axis=1)
    return Nearness(kl / len(same), float(same.mean()))
