"""Compute large layers, attention, sigmoid and tanh with NumPy in float32: on a CPU, mlx's BLAS is fifty times slower.

Only a layer's call changes.  Weights are widened or dequantised a block of rows at a time.  An adapter is applied as
`x W + scale (x A) B`, without the rounding of a fused weight.  Import this module where mlx is known to be there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
# An update `scale * left @ right` of a weight (out, in): left (out, rank), right (rank, in), scale
Factors = tuple[Matrix, Matrix, float]
BLOCK_BYTES = 64 << 20  # how much of a weight is held in float32 at a time
_PART = 1 << 16  # numbers that are dequantised at a time: they fit into the CPU's cache


def matrix(array: Any) -> Matrix:
    """Return an mlx array in float32, computed; without a copy where it is float32 already."""
    return np.asarray(array.astype(mx.float32))


def widened(module: Any, part: Any) -> Any:
    """Return a part of a layer's weight in float32, exactly what the stored numbers mean."""
    if "scales" not in module:
        return module["weight"][part].astype(mx.float32)
    affine = module.mode == "affine"
    scales = module["scales"][part]
    biases = module.get("biases")
    whole = module.get("global_scale")
    return mx.dequantize(
        module["weight"][part],
        # Scales of 16 bits would have every product rounded to 16 bits; the other modes' scales are codes.
        scales.astype(mx.float32) if affine else scales,
        biases[part].astype(mx.float32) if biases is not None else None,
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
        global_scale=whole if whole is None or whole.ndim == 0 else whole[part],
        dtype=mx.float32,
    )


def blocks(module: Any) -> Iterator[tuple[slice, Matrix]]:
    """Yield a weight (out, in) in float32, some rows at a time."""
    rows, columns = module["weight"].shape
    width = columns * 32 // module.bits if "scales" in module else columns
    step = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        if "scales" in module and module.mode == "affine" and 8 % module.bits == 0:
            yield part, _dequantise(module, part, width)
        else:
            yield part, matrix(widened(module, part))


def _dequantise(module: Any, part: slice, width: int) -> Matrix:
    """Return rows of an affine weight of 2, 4 or 8 bits in float32: the same bits as `widened`, in a third of the time."""
    codes = np.asarray(module["weight"])[part].view(np.uint8)
    scales, biases = (matrix(module[name][part])[..., None] for name in ("scales", "biases"))
    bits, step = module.bits, max(1, _PART // width)
    numbers = np.empty((len(codes), width), np.float32)
    for start in range(0, len(codes), step):
        rows = slice(start, start + step)
        places = numbers[rows].reshape(-1, codes.shape[1], 8 // bits)
        for place in range(8 // bits):
            np.copyto(places[..., place], codes[rows] >> place * bits & 2**bits - 1)
        groups = numbers[rows].reshape(-1, scales.shape[1], width // scales.shape[1])
        groups *= scales[rows]
        groups += biases[rows]
    return numbers


def times(module: Any, x: Matrix, factors: Factors | None = None, magnitudes: Matrix | None = None) -> Matrix:
    """Return x (n, in) times a weight, or `W + scale * left @ right` with DoRA's magnitudes by row, (n, out), and the bias."""
    out = np.empty((len(x), module["weight"].shape[0]), np.float32)
    for part, weight in blocks(module):
        if factors is None or magnitudes is None:
            np.matmul(x, weight.T, out=out[:, part])
            continue
        left, right, scale = factors
        adapted = weight + np.float32(scale) * (left[part] @ right)
        np.matmul(x, adapted.T, out=out[:, part])
        out[:, part] *= magnitudes[part] / np.linalg.norm(adapted, axis=1)
    if "bias" in module:
        out += matrix(module["bias"])
    if factors is not None and magnitudes is None:
        left, right, scale = factors
        out += np.float32(scale) * ((x @ right.T) @ left.T)
    return out


def back_through(module: Any, gradient: Matrix) -> Matrix:
    """Return what a gradient (n, out) of a layer's outputs says of its inputs, (n, in): the gradient times the weight."""
    total: Matrix | None = None
    for part, weight in blocks(module):
        share: Matrix = gradient[:, part] @ weight
        total = share if total is None else np.add(total, share, out=total)
    assert total is not None
    return total


def _applied(module: Any, x: Any, product: Callable[[Matrix], Matrix]) -> Any:
    if (on_gradient := module.__dict__.get("_on_gradient")) is not None:
        return _differentiable(module, x, product, on_gradient)
    values = matrix(x)
    if (on_input := module.__dict__.get("_on_input")) is not None:
        on_input(values)
    rows = values.reshape(-1, values.shape[-1])
    if (wanted := module.__dict__.get("_wanted")) is not None:
        return mx.array(product(rows[wanted])[None])
    out = product(rows)
    return mx.array(out.reshape(*values.shape[:-1], out.shape[-1]))


def _differentiable(
    module: Any, x: Any, product: Callable[[Matrix], Matrix], on_gradient: Callable[[Matrix, Matrix], None]
) -> Any:
    @mx.custom_function
    def forward(given: Any) -> Any:
        values = matrix(given)
        out = product(values.reshape(-1, values.shape[-1]))
        return mx.array(out.reshape(*values.shape[:-1], out.shape[-1]))

    @forward.vjp
    def backward(given: Any, gradient: Any, _: Any) -> Any:
        values, slopes = matrix(given), matrix(gradient)
        rows = slopes.reshape(-1, slopes.shape[-1])
        on_gradient(values.reshape(-1, values.shape[-1]), rows)
        return mx.array(back_through(module, rows).reshape(values.shape))

    moved = module.__dict__.get("_moved")
    return forward(x if moved is None else x + moved)


def _multiplies(inner: str = "") -> Callable[[Any, Any], Any]:
    """Return how a layer multiplies, alone or with the update and the magnitudes of an adapter around its `inner` layer."""

    def call(module: Any, x: Any) -> Any:
        if not inner:
            return _applied(module, x, lambda rows: times(module, rows))
        a, b = matrix(module["lora_a"]), matrix(module["lora_b"])
        factors = (b.T, a.T, module.scale) if inner == "linear" else (a, b, module.scale)
        magnitudes = matrix(module["m"]) if "m" in module else None
        return _applied(module, x, lambda rows: times(module[inner], rows, factors, magnitudes))

    return call


def _look_up_lora(module: Any, ids: Any) -> Any:
    update = module["lora_a"][ids].astype(mx.float32) @ module["lora_b"].astype(mx.float32)
    return widened(module.embedding, ids) + module.scale * update


def _look_up_dora(module: Any, ids: Any) -> Any:
    adapted = _look_up_lora(module, ids)
    return (module["m"][ids] / mx.linalg.norm(adapted, axis=-1))[..., None] * adapted


def _called(kind: type, **methods: Callable[..., Any]) -> type:
    return type(f"Numpy{kind.__name__}", (kind,), methods)


# Exactly these classes: a layer of a class of the model's own, and experts, are left to mlx
_IN_NUMPY: dict[type, type] = {
    nn.Linear: _called(nn.Linear, __call__=_multiplies()),
    nn.QuantizedLinear: _called(nn.QuantizedLinear, __call__=_multiplies()),
    LoRALinear: _called(LoRALinear, __call__=_multiplies("linear")),
    DoRALinear: _called(DoRALinear, __call__=_multiplies("linear")),
    nn.Embedding: _called(nn.Embedding, __call__=widened, as_linear=_multiplies()),
    nn.QuantizedEmbedding: _called(nn.QuantizedEmbedding, __call__=widened, as_linear=_multiplies()),
    LoRAEmbedding: _called(LoRAEmbedding, __call__=_look_up_lora, as_linear=_multiplies("embedding")),
    DoRAEmbedding: _called(DoRAEmbedding, __call__=_look_up_dora, as_linear=_multiplies("embedding")),
}
_IN_MLX: dict[type, type] = {
    kind: _called(kind, __call__=vars(made)["__call__"])
    for kind, made in _IN_NUMPY.items()
    if hasattr(kind, "as_linear")
}

# The layers that multiply by one matrix, whose inputs can be watched
LINEAR = (nn.Linear, nn.QuantizedLinear, LoRALinear, DoRALinear)


def use_float32(model: Any, *, numpy: bool) -> None:
    """Make a model compute in float32 by NumPy, or by mlx, which widens its operands since the embedding gives float32."""
    classes = _IN_NUMPY if numpy else _IN_MLX
    for _, module in model.named_modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]


def watch(module: Any, on_input: Callable[[Matrix], None] | None) -> None:
    """Have a linear layer show each input, in the shape in which it comes; None ends that."""
    module.__dict__.pop("_on_input", None)
    if on_input is not None:
        module.__dict__["_on_input"] = on_input


@contextmanager
def differentiable(
    model: Any, on_gradient: Mapping[str, Callable[[Matrix, Matrix], None]], moved: Any
) -> Iterator[None]:
    """Make a model differentiable by a number `moved` that is added to the inputs of some layers.

    `on_gradient`, by a layer's path, gets its inputs and its outputs' gradient.  The backward pass ends at the first layer.
    """
    with ExitStack() as stack:

        def put(module: Any, name: str, value: Any) -> None:
            module.__dict__[name] = value
            stack.callback(module.__dict__.pop, name)

        for path, module in model.named_modules():
            if path in on_gradient:
                put(module, "_moved", moved)
                put(module, "_on_gradient", on_gradient[path])
            elif isinstance(module, (nn.Embedding, nn.QuantizedEmbedding, *LINEAR)):
                put(module, "_on_gradient", lambda *_: None)
        yield


@contextmanager
def head_limited_to(model: Any, rows: NDArray[np.intp]) -> Iterator[None]:
    """Have a model's head answer for some tokens only, with logits (1, rows, vocabulary), the largest thing in a run."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if _is_head(path, module):
                module.__dict__["_wanted"] = rows
                stack.callback(module.__dict__.pop, "_wanted")
        yield


def _is_head(path: str, module: Any) -> bool:
    """Tell whether a layer gives logits: by name, or an embedding, where the two are tied."""
    if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding, LoRAEmbedding, DoRAEmbedding)):
        return True
    return isinstance(module, LINEAR) and path.rpartition(".")[2] == "lm_head"


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def functions_in_numpy() -> Iterator[None]:
    """Replace mlx's attention, sigmoid and tanh with NumPy's, for all threads."""
    replacements: list[tuple[Any, str, Callable[..., Any]]] = [
        (mx.fast, "scaled_dot_product_attention", _attend),
        (mx, "sigmoid", partial(_elementwise, value=_sigmoid, slope=lambda result: result * (1 - result))),
        (mx, "tanh", partial(_elementwise, value=np.tanh, slope=lambda result: 1 - result * result)),
    ]
    with _ONE_AT_A_TIME, ExitStack() as stack:
        for module, name, function in replacements:
            original = getattr(module, name)
            stack.callback(setattr, module, name, original)
            setattr(module, name, partial(function, original))
        yield


def _sigmoid(x: Matrix) -> Matrix:
    with np.errstate(over="ignore"):  # exp(-x) is infinite for a large -x, and the result 0
        result: Matrix = np.reciprocal(1 + np.exp(-x))
    return result


def _elementwise(
    original: Callable[..., Any],
    x: Any,
    *,
    value: Callable[[Matrix], Matrix],
    slope: Callable[[Any], Any],
    **others: Any,
) -> Any:
    """Return a function of each number, differentiable: NumPy takes a tenth of mlx's time on a CPU."""
    if others or getattr(x, "dtype", None) != mx.float32:
        return original(x, **others)

    @mx.custom_function
    def forward(given: Any) -> Any:
        return mx.array(value(np.asarray(given)))

    @forward.vjp
    def backward(given: Any, gradient: Any, result: Any) -> Any:
        return gradient * slope(result)

    return forward(x)


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
        asked, key_array, value_array = _arrays(queries, keys, values)
        out = _shares(asked, key_array, scale, mask) @ value_array
        return mx.array(out.reshape(queries.shape[:3] + values.shape[-1:]))

    @forward.vjp
    def backward(given: Any, gradient: Any, _: Any) -> Any:
        asked, key_array, value_array = _arrays(*given)
        shares = _shares(asked, key_array, scale, mask)
        slopes = np.asarray(gradient).reshape(asked.shape[:-1] + value_array.shape[-1:])
        by_values = np.swapaxes(shares, -1, -2) @ slopes
        by_scores = slopes @ np.swapaxes(value_array, -1, -2)
        by_scores -= (by_scores * shares).sum(axis=-1, keepdims=True)
        by_scores *= shares
        by_scores *= np.float32(scale)
        by_queries, by_keys = by_scores @ key_array, np.swapaxes(by_scores, -1, -2) @ asked
        # Heads that share keys and values add up their gradients.
        parts = zip((by_queries, by_keys.sum(axis=2), by_values.sum(axis=2)), given, strict=True)
        return tuple(mx.array(part.reshape(of.shape)) for part, of in parts)

    return forward(queries, keys, values)


def _arrays(queries: Any, keys: Any, values: Any) -> tuple[Matrix, Matrix, Matrix]:
    """Return queries (batch, groups, heads of a group, tokens, size), and keys and values that are broadcast to that."""
    batch, heads, length, size = queries.shape
    groups = keys.shape[1]
    asked = np.asarray(queries).reshape(batch, groups, heads // groups, length, size)
    return asked, np.asarray(keys)[:, :, None], np.asarray(values)[:, :, None]


def _shares(asked: Matrix, key_array: Matrix, scale: float, mask: Any) -> Matrix:
    scores: Matrix = asked @ np.swapaxes(key_array, -1, -2)
    scores *= np.float32(scale)
    batch, groups, heads_per_group, length, reach = scores.shape
    _masked(scores.reshape(batch, groups * heads_per_group, length, reach), mask)
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
