"""Attention by NumPy, which on a processor takes a fifth of the time that mlx takes, as long as a model runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

_NAME = "scaled_dot_product_attention"
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def attention_in_numpy() -> Iterator[None]:
    """Put NumPy in the place of `mx.fast.scaled_dot_product_attention`, which is where every model of mlx-lm calls.

    Other threads that use mlx meanwhile get the same numbers from it.
    """
    with _ONE_AT_A_TIME:
        original = getattr(mx.fast, _NAME)

        def attend(queries: Any, keys: Any, values: Any, **options: Any) -> Any:
            return _attend(original, queries, keys, values, **options)

        setattr(mx.fast, _NAME, attend)
        try:
            yield
        finally:
            setattr(mx.fast, _NAME, original)


def _attend(
    original: Callable[..., Any],
    queries: Any,
    keys: Any,
    values: Any,
    *,
    scale: float,
    mask: Any = None,
    sinks: Any = None,
    **others: Any,
) -> Any:
    """Return softmax(scale * q k^T + mask) v for q (batch, heads, tokens, size) and k, v with as many heads or fewer, to be gone back through."""
    if sinks is not None or others or not queries.dtype == keys.dtype == values.dtype == mx.float32:
        return original(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **others)

    @mx.custom_function
    def forward(queries: Any, keys: Any, values: Any) -> Any:
        asked, known, found = _arrays(queries, keys, values)
        out = _shares(asked, known, scale, mask) @ found
        return mx.array(out.reshape(queries.shape[:3] + values.shape[-1:]))

    @forward.vjp
    def backward(given: Any, gradient: Any, _: Any) -> Any:
        asked, known, found = _arrays(*given)
        shares = _shares(asked, known, scale, mask)
        slopes = np.asarray(gradient).reshape(asked.shape[:-1] + found.shape[-1:])
        by_values = np.swapaxes(shares, -1, -2) @ slopes
        by_scores = slopes @ np.swapaxes(found, -1, -2)
        by_scores -= (by_scores * shares).sum(axis=-1, keepdims=True)
        by_scores *= shares
        by_scores *= np.float32(scale)
        by_queries, by_keys = by_scores @ known, np.swapaxes(by_scores, -1, -2) @ asked
        # Heads that share keys and values add up what they say of them.
        return tuple(
            mx.array(part.reshape(of.shape))
            for part, of in zip((by_queries, by_keys.sum(axis=2), by_values.sum(axis=2)), given, strict=True)
        )

    return forward(queries, keys, values)


def _arrays(queries: Any, keys: Any, values: Any) -> tuple[Matrix, Matrix, Matrix]:
    """Return queries (batch, groups, heads of a group, tokens, size), and keys and values that are broadcast to that."""
    batch, heads, length, size = queries.shape
    groups = keys.shape[1]
    asked = np.asarray(queries).reshape(batch, groups, heads // groups, length, size)
    return asked, np.asarray(keys)[:, :, None], np.asarray(values)[:, :, None]


def _shares(asked: Matrix, known: Matrix, scale: float, mask: Any) -> Matrix:
    """Return how much of each value goes to each query."""
    scores: Matrix = asked @ np.swapaxes(known, -1, -2)
    scores *= np.float32(scale)
    batch, groups, each, length, reach = scores.shape
    _masked(scores.reshape(batch, groups * each, length, reach), mask)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _masked(scores: NDArray[np.float32], mask: Any) -> None:
    """Apply a mask in place: `causal`, booleans where to look, or numbers to add."""
    if mask is None:
        return
    # As mlx does it: a row without a place to look gets equal weights rather than NaN.
    lowest = np.finfo(np.float32).min
    if isinstance(mask, str):
        length, reach = scores.shape[-2:]
        hidden = ~np.tri(length, reach, reach - length, dtype=bool)
        scores[..., hidden] = lowest
    elif mask.dtype == mx.bool_:
        np.copyto(scores, lowest, where=~np.asarray(mask))
    else:
        scores += np.asarray(mask.astype(mx.float32))
