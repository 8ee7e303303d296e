"""Load models through mlx-lm, without code of their own, run them over samples in float32, and compare the answers of two."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fusery.registry.engine.architectures import has_tensor_scales
from fusery.registry.errors import MissingExtraError, ModelUnusableError
from fusery.registry.parsing import plural
from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import read_config
from fusery.storage.progress import SILENT, Reporter, tally
from fusery.storage.transfer import Need, require_rooms

from .bench_worker import REFUSALS
from .prompts import Sample

Logits = NDArray[np.float32]

BATCH_TOKENS = 512  # how many tokens are run at once, padding included


class LoadedModel:
    """A model in memory, or rather in its files: weights are read when they are first used."""

    def __init__(self, network: Any, *, numpy: bool) -> None:
        self.network = network
        self.numpy = numpy

    @classmethod
    def load(cls, folder: Path, *, numpy: bool | None = None) -> LoadedModel:
        """Load a model from its folder, to multiply by NumPy or by mlx; default: by NumPy where mlx has no GPU."""
        mx = _mlx()
        from mlx_lm.utils import load_model

        from .layers import use_float32

        require_loadable(folder)
        with reported("the model cannot be loaded"):
            network, _ = load_model(folder, lazy=True, trust_remote_code=False)
        on_processor = mx.default_device() == mx.cpu if numpy is None else numpy
        use_float32(network, numpy=on_processor)
        return cls(network, numpy=on_processor)

    def put_on(self, adapter: Path) -> None:
        """Put an adapter on the model, at run time and without rounding."""
        from mlx_lm.tuner.utils import load_adapters

        from .layers import use_float32

        with reported("the adapter cannot be put on the model"):
            load_adapters(self.network, str(adapter))
        self.network.eval()
        use_float32(self.network, numpy=self.numpy)

    def run(self, tokens: NDArray[np.int32], scored: NDArray[np.bool_] | None = None) -> Logits:
        """Return the logits (scored tokens, vocabulary) of a batch of ids (prompts, tokens); of all without `scored`."""
        mx = _mlx()
        rows = np.flatnonzero(np.ones(tokens.shape, bool) if scored is None else scored)
        with ExitStack() as stack, reported("the model cannot be run"):
            if self.numpy:
                from .layers import functions_in_numpy, head_limited_to

                for context in (uncompiled(mx), functions_in_numpy(), head_limited_to(self.network, rows)):
                    stack.enter_context(context)
            logits = np.asarray(self.network(mx.array(tokens)).astype(mx.float32))
        if logits.shape[:2] == tokens.shape:
            logits = logits.reshape(-1, logits.shape[-1])[rows]
        if logits.size and np.isnan(logits.max()):
            raise ModelUnusableError("the model answers with numbers that are not numbers (NaN)")
        return logits.reshape(-1, logits.shape[-1])

    def answers(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Logits]]:
        """Yield the position of each sample, and the logits (scored tokens, vocabulary) that predict its scored tokens."""
        for positions, tokens, _ in batches(samples):
            scored = np.zeros(tokens.shape, bool)
            for row, position in enumerate(positions):
                scored[row, samples[position].first - 1 : len(samples[position].tokens) - 1] = True
            logits, start = self.run(tokens, scored), 0
            for row, position in enumerate(positions):
                end = start + int(scored[row].sum())
                yield position, logits[start:end]
                start = end


def batches(
    samples: Sequence[Sample],
) -> Iterator[tuple[list[int], NDArray[np.int32], NDArray[np.bool_]]]:
    """Yield the positions of samples of similar length, their ids, padded at the end, and a mask without the padding."""
    groups: list[list[int]] = []
    for position in sorted(range(len(samples)), key=lambda position: len(samples[position].tokens)):
        if not groups or (len(groups[-1]) + 1) * len(samples[position].tokens) > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(position)
    for group in groups:
        # A causal model does not look at the end; the last sample is the longest.
        tokens = np.zeros((len(group), len(samples[group[-1]].tokens)), np.int32)
        real = np.zeros(tokens.shape, bool)
        for row, position in enumerate(group):
            length = len(samples[position].tokens)
            tokens[row, :length], real[row, :length] = samples[position].tokens, True
        yield group, tokens, real


def require_loadable(folder: Path) -> None:
    """Refuse a model that brings its own code or is in a format that mlx-lm does not read."""
    config = read_config(folder / "config.json")
    if has_tensor_scales(config):
        message = "mlx-lm does not read NVFP4 with a scale per tensor"
        raise ModelUnusableError(message, hint="fusery fuse REF --as 16bit")
    if config.get("model_file") is not None:
        raise ModelUnusableError("the model has code of its own (model_file), which fusery never runs")


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model's folder, as mlx-lm does."""
    _mlx()
    from mlx_lm.utils import load_tokenizer as load

    with reported("the model's tokenizer cannot be loaded"):
        return load(folder, {"trust_remote_code": False})


def _mlx() -> Any:
    try:
        import mlx.core
        import mlx_lm
    except ImportError as error:
        raise MissingExtraError("running a model", "mlx") from error
    assert mlx_lm
    return mlx.core


@contextmanager
def reported(failure: str) -> Iterator[None]:
    """Turn what the model libraries raise into one sentence."""
    try:
        yield
    except FuseryError:
        raise
    except REFUSALS as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelUnusableError(f"{failure}: {first.strip()[:300]}") from error


@contextmanager
def uncompiled(mx: Any) -> Iterator[None]:
    """Keep mlx from compiling: NumPy has to see numbers, and on a processor a C++ compiler would run for a minute."""
    mx.disable_compile()
    try:
        yield
    finally:
        if "MLX_DISABLE_COMPILE" not in os.environ:
            mx.enable_compile()


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to load: a folder, and an adapter to put on it."""

    model: Path
    adapter: Path | None = None
    name: str = "the model"


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of two models, and the losses of the base."""

    scores: tuple[TokenScores, ...]
    base_losses: tuple[Floats, ...] = ()


def measure(
    a: ModelSource,
    b: ModelSource,
    samples: Sequence[Sample],
    *,
    of_base: int = 0,
    reporter: Reporter = SILENT,
) -> ModelScores:
    """Run both models over the samples and compare their predictions, and the base alone over the first ones; the logits of `a` wait in a temporary file."""
    tokens = sum(len(sample.tokens) for sample in [*samples, *samples, *samples[:of_base]])
    count = tally(reporter.progress, tokens)
    with tempfile.TemporaryFile(prefix="fusery-logits-") as file:
        first = FirstAnswers.write(file, a, samples, of_base=of_base, reporter=reporter, count=count)
        return first.compare(b, samples, reporter, count)


@dataclass(frozen=True, slots=True)
class FirstAnswers:
    """What a model answers to samples, logits in a file, and its base to the first ones: to be compared with other models."""

    file: IO[bytes]
    places: dict[int, tuple[int, tuple[int, ...]]]
    base_losses: tuple[Floats, ...]

    @classmethod
    def write(
        cls,
        file: IO[bytes],
        source: ModelSource,
        samples: Sequence[Sample],
        *,
        of_base: int,
        reporter: Reporter,
        count: Callable[[int], None],
    ) -> FirstAnswers:
        """Run a model, and before that its base over the first `of_base` samples; `count` is called with tokens."""
        model, own = LoadedModel.load(source.model), samples[:of_base]
        base_losses: dict[int, Floats] = {}
        if own:
            answered = _answered(model, "the base", own, reporter, count)
            base_losses = {at: losses(rows, samples[at].targets) for at, rows in answered}
        if source.adapter is not None:
            model.put_on(source.adapter)
        places: dict[int, tuple[int, tuple[int, ...]]] = {}
        for at, rows in _answered(model, source.name, samples, reporter, count):
            if not places:
                size = sum(len(sample.targets) for sample in samples) * rows[:1].nbytes
                require_rooms([Need(Path(tempfile.gettempdir()), [size])], hint="set TMPDIR to a larger disk")
            places[at] = (file.tell(), rows.shape)
            file.write(np.ascontiguousarray(rows).data)
        file.flush()
        return cls(file, places, tuple(base_losses[at] for at in sorted(base_losses)))

    def compare(
        self, source: ModelSource, samples: Sequence[Sample], reporter: Reporter, count: Callable[[int], None]
    ) -> ModelScores:
        """Run another model over the same samples and return how its predictions differ."""
        model = LoadedModel.load(source.model)
        if source.adapter is not None:
            model.put_on(source.adapter)
        answered = _answered(model, source.name, samples, reporter, count)
        scores = {at: compare(self._rows(at), rows, samples[at].targets) for at, rows in answered}
        return ModelScores(tuple(scores[at] for at in sorted(scores)), self.base_losses)

    def _rows(self, at: int) -> Logits:
        start, shape = self.places[at]
        mapped_logits: Any = np.memmap(self.file, np.float32, "r", start, shape)
        return np.asarray(mapped_logits)


def _answered(
    model: LoadedModel, name: str, samples: Sequence[Sample], reporter: Reporter, count: Callable[[int], None]
) -> Iterator[tuple[int, Logits]]:
    reporter.say(f"{name} answers {plural(len(samples), 'prompt')}")
    for at, rows in model.answers(samples):
        yield at, rows
        count(len(samples[at].tokens))


Floats = NDArray[np.float64]

_CHUNK_BYTES = 32 << 20
# Below the highest logit: exp of it is 0, and differences of such logarithms stay finite, also for a logit of -inf
_LOWEST = -1e4


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The predictions of two models; each array has one number a token."""

    kl: Floats  # divergence of b's prediction from a's, sum of p_a (log p_a - log p_b), in nats
    same: NDArray[np.bool_]  # both give the highest probability to the same token
    loss_a: Floats  # -log p_a of the token that follows in the text, in nats
    loss_b: Floats

    @classmethod
    def joined(cls, parts: Iterable[TokenScores]) -> TokenScores:
        """Return the scores of several texts as those of one."""
        listed = list(parts)
        return cls(*(np.concatenate([getattr(part, name) for part in listed]) for name in cls.__slots__))


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Return the logarithms of the probabilities that logits (tokens, vocabulary) stand for, at least about -10000."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.maximum(shifted, _LOWEST, out=shifted)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def compare(a: NDArray[np.float32], b: NDArray[np.float32], targets: NDArray[np.int64]) -> TokenScores:
    """Compare the logits (tokens, vocabulary) of two models; divergence is from `a`."""
    if a.shape != b.shape:
        raise ModelUnusableError(f"the vocabularies have different sizes, {a.shape[-1]} and {b.shape[-1]}")
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
    target_losses = np.empty(len(targets))
    for part in _parts(logits):
        logs = log_softmax(logits[part])
        target_losses[part] = -logs[np.arange(len(logs)), targets[part]]
    return target_losses


def _parts(logits: NDArray[np.float32]) -> Iterable[slice]:
    step = max(1, _CHUNK_BYTES // (8 * logits.shape[-1]))
    return (slice(start, min(start + step, len(logits))) for start in range(0, len(logits), step))
