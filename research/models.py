"""Models that answer: loaded through mlx-lm, run over samples, one batch of logits at a time.

Everything is computed in float32, whatever the weights are stored in, so that what differs between two models is their
weights and not the rounding of their activations.  Code that a model brings along is never run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.registry.errors import MissingExtraError, ModelUnusableError
from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import read_object

from .prompts import Sample

Logits = NDArray[np.float32]

BATCH_TOKENS = 512  # how many tokens are run at once, padding included

_REFUSALS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ImportError)
"""What mlx-lm, mlx and transformers raise at a folder that is not a model to them."""


class LoadedModel:
    """A model in memory, or rather in its files: weights are read when they are first used."""

    def __init__(self, network: Any, *, numpy: bool) -> None:
        self.network = network
        self.numpy = numpy

    @classmethod
    def load(cls, folder: Path, *, numpy: bool | None = None) -> LoadedModel:
        """Load a model from its folder.

        Args:
            numpy: multiply by NumPy; default: where mlx has no GPU.
        """
        mx = _mlx()
        from mlx_lm.utils import load_model

        from .layers import use_float32

        config = read_object(folder / "config.json")
        if config.get("model_file") is not None:
            raise ModelUnusableError(
                "the model brings its own code (model_file in config.json), which fusery never runs"
            )
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
        """Return the logits (scored tokens, vocabulary) of a batch, in the order of the batch.

        Args:
            tokens: ids, (prompts, tokens).
            scored: for which of them logits are wanted; None for all.
        """
        mx = _mlx()
        rows = np.flatnonzero(np.ones(tokens.shape, bool) if scored is None else scored)
        with self._computing(rows), reported("the model cannot be run"):
            logits = np.asarray(self.network(mx.array(tokens)).astype(mx.float32))
        if logits.shape[:2] == tokens.shape:
            logits = logits.reshape(-1, logits.shape[-1])[rows]
        if logits.size and np.isnan(logits.max()):
            raise ModelUnusableError("the model answers with numbers that are not numbers (NaN)")
        return logits.reshape(-1, logits.shape[-1])

    @contextmanager
    def _computing(self, rows: NDArray[np.intp]) -> Iterator[None]:
        from .attention import attention_in_numpy
        from .layers import head_limited_to

        if not self.numpy:
            yield
            return
        with uncompiled(_mlx()), attention_in_numpy(), head_limited_to(self.network, rows):
            yield

    def answers(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Logits]]:
        """Yield the position of each sample, and the logits (scored tokens, vocabulary) that predict its scored tokens."""
        for positions, tokens in batches(samples):
            scored = np.zeros(tokens.shape, bool)
            for row, position in enumerate(positions):
                scored[row, samples[position].first - 1 : len(samples[position].tokens) - 1] = True
            logits, start = self.run(tokens, scored), 0
            for row, position in enumerate(positions):
                end = start + int(scored[row].sum())
                yield position, logits[start:end]
                start = end


def batches(samples: Sequence[Sample]) -> Iterator[tuple[list[int], NDArray[np.int32]]]:
    """Yield samples of like length together, padded at the end, where a causal model does not look.

    A batch is a few hundred tokens: enough that widening the weights is not what takes the time, and few enough that
    their logits fit.  A sample that is longer is a batch of its own.
    """
    group: list[int] = []
    for position in sorted(range(len(samples)), key=lambda position: len(samples[position].tokens)):
        length = len(samples[position].tokens)
        if group and (len(group) + 1) * length > BATCH_TOKENS:
            yield group, _padded([samples[member].tokens for member in group])
            group = []
        group.append(position)
    if group:
        yield group, _padded([samples[member].tokens for member in group])


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens


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
    except _REFUSALS as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelUnusableError(f"{failure}: {first.strip()[:300]}") from error


@contextmanager
def uncompiled(mx: Any) -> Iterator[None]:
    """Keep mlx from compiling: NumPy has to see numbers, and on a processor a C++ compiler would run for a minute."""
    if "MLX_DISABLE_COMPILE" in os.environ:
        yield
        return
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()
