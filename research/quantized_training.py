"""Train for a fuse at the base's own size: through its quantiser (Bengio et al., arXiv:1308.3432), or for its biases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

from fusery.registry.adapters import CONFIG
from fusery.registry.adapters.trained_through import ITS_WEIGHTS, QUANTIZATION_AWARE
from fusery.registry.errors import BadInputError
from fusery.registry.recording.trainer import GROUPED, Way
from fusery.storage.digest import digest_file
from fusery.storage.jsonfile import read_object
from fusery.storage.publishing import write_atomically

_SAVED = "*adapters.safetensors"


def require_trainable(args: Any, way: Way) -> None:
    """Refuse what cannot be trained that way."""
    if not args.train:
        raise BadInputError(f"--{way} is about training, and nothing is to be trained", hint="-- --train ...")
    if args.fine_tune_type != "lora":
        hint = "leave out --fine-tune-type"
        raise BadInputError(f"--{way} trains a LoRA, not --fine-tune-type {args.fine_tune_type}", hint=hint)
    parameters = args.lora_parameters
    if way == "qat" and isinstance(parameters, dict) and parameters.get("dropout"):
        message = "--qat knows no dropout: what is dropped from an update cannot be quantised with it"
        raise BadInputError(message, hint="set dropout to 0 in lora_parameters of the configuration file")


def make_layers(args: Any, model: Any, to_lora: Callable[..., None], way: Way = "qat") -> list[Any]:
    """Put LoRA layers for a fuse at the base's size into a model, their format into the arguments, and return them."""
    mx.random.seed(args.seed)
    model.freeze()
    to_lora(model, args.num_layers, args.lora_parameters)
    layers = {path: layer for path, layer in model.named_modules() if hasattr(layer, "lora_a")}
    kinds = _kinds(way)
    for path, layer in layers.items():
        if type(layer) not in kinds:
            raise BadInputError(f"--{way} does not know how {path} is fused: {type(layer).__name__}")
    bits, size, mode = _common_format(layers.values(), way)
    if way == "qa-lora":
        if mode != "affine":
            hint = "train on a base in affine codes, which mlx_lm.convert -q makes, or with --qat"
            message = f"--qa-lora moves the biases of the base's groups, and {mode} has none"
            raise BadInputError(message, hint=hint)
        if file := getattr(args, "resume_adapter_file", None):
            require_grouped(Path(file), size)
    for layer in layers.values():
        layer.__class__ = kinds[type(layer)]
        if way == "qa-lora":
            begin_grouped(layer)
    if way == "qat":
        entry = {"bits": bits, "group_size": size} | ({} if mode == "affine" else {"mode": mode})
        setattr(args, QUANTIZATION_AWARE, entry)
    else:
        for name, value in zip(GROUPED, (True, size), strict=True):
            setattr(args, name, value)
    return list(layers.values())


@contextmanager
def bound_to_weights(folder: Path) -> Iterator[None]:
    """Write into an adapter's configuration which weights were trained through the quantiser: those saved meanwhile."""
    before = {path: _stamp(path) for path in folder.glob(_SAVED)}
    try:
        yield
    finally:
        saved = [path for path in folder.glob(_SAVED) if before.get(path) != _stamp(path)]
        if saved:
            config = read_object(folder / CONFIG)
            config[ITS_WEIGHTS] = sorted({digest_file(path)[0] for path in saved})
            write_atomically(folder / CONFIG, json.dumps(config, indent=4).encode())


def _stamp(path: Path) -> tuple[int, int, int]:
    file_status = path.stat()
    return file_status.st_ino, file_status.st_size, file_status.st_mtime_ns


def _common_format(layers: Iterable[Any], way: Way) -> tuple[int, int, str]:
    inner = map(_inner, layers)
    formats = {(one.bits, one.group_size, one.mode) if hasattr(one, "bits") else None for one in inner}
    common_format = next(iter(formats)) if len(formats) == 1 else None
    if common_format is None:
        format_names = ", ".join(sorted(map(_in_words, formats)))
        hint = "train on a base of mlx_lm.convert -q; name layers of one format as keys in lora_parameters"
        raise BadInputError(f"--{way} needs one quantised format in all layers: {format_names}", hint=hint)
    return common_format


@cache
def _kinds(way: Way) -> dict[type, type]:
    compute = _straight if way == "qat" else _sharing

    def made(kind: type, *names: str) -> type:
        def method(name: str) -> Callable[..., Any]:
            plain = getattr(kind, name)
            return lambda self, *given, **named: compute(self, partial(plain, self), name, *given, **named)

        return type(f"Trained{kind.__name__}", (kind,), {name: method(name) for name in names})

    trained_classes = {kind: made(kind, "__call__") for kind in (LoRALinear, LoRASwitchLinear)}
    if way == "qat":
        trained_classes[LoRAEmbedding] = made(LoRAEmbedding, "__call__", "as_linear")
    return trained_classes


def _straight(layer: Any, plain: Callable[..., Any], name: str, inputs: Any, *rest: Any, **named: Any) -> Any:
    """Return what the quantised layer computes, with the gradient that the plain one has by its own A and B."""
    unrounded = plain(mx.stop_gradient(inputs), *rest, **named)
    quantised = getattr(_quantised(layer), name)
    return quantised(inputs, *rest, **named) + (unrounded - mx.stop_gradient(unrounded))


def _quantised(layer: Any) -> Any:
    """Return the layer that mlx-lm's `fuse` makes, without the random numbers with which that begins: each would keep the last alive."""
    inner = _inner(layer)
    form = {"group_size": inner.group_size, "bits": inner.bits, "mode": inner.mode}
    weight = mx.dequantize(inner.weight, inner.scales, inner.get("biases"), **form)
    whole = mx.stop_gradient(weight + _update(layer).astype(weight.dtype))
    made = copy(inner)
    made.weight, made.scales, *biases = mx.quantize(whole, **form)
    if biases:
        (made.biases,) = biases
    return made


def _update(layer: Any) -> Any:
    a, b, scale = layer.lora_a, layer.lora_b, layer.scale
    if "embedding" in layer:
        return (scale * a) @ b
    return (scale * b) @ a if a.ndim == 3 else (scale * b.T) @ a.T


def _inner(layer: Any) -> Any:
    return layer.embedding if "embedding" in layer else layer.get("linear")


def _in_words(layer_format: tuple[int, int, str] | None) -> str:
    if layer_format is None:
        return "plain numbers"
    bits, size, mode = layer_format
    return f"{bits} bits in groups of {size}{'' if mode == 'affine' else f' ({mode})'}"


def begin_grouped(layer: Any) -> None:
    """Give all inputs of a group the row of A that the first of them has."""
    rows, axis = _in_groups(layer.lora_a, layer.linear.group_size)
    first = mx.take(rows, mx.array([0]), axis=axis)
    layer.lora_a = mx.broadcast_to(first, rows.shape).reshape(layer.lora_a.shape)


def require_grouped(file: Path, size: int) -> None:
    """Refuse weights that training is to go on with, if their updates are not constant within groups of `size` inputs."""
    loaded: Any = mx.load(str(file))
    for name, values in loaded.items():
        if name.rpartition(".")[2] == "lora_a" and not _is_constant(values, size):
            hint = "leave out --resume-adapter-file, or give one that --qa-lora made on this base"
            message = f"{file.name}: {name} is not constant within groups of {size} inputs"
            raise BadInputError(message, hint=hint)


def _is_constant(values: Any, size: int) -> bool:
    if values.ndim not in (2, 3) or values.shape[0 if values.ndim == 2 else -1] % size:
        return False
    rows, axis = _in_groups(values, size)
    return bool(mx.all(rows == mx.take(rows, mx.array([0]), axis=axis)).item())


def _sharing(layer: Any, plain: Callable[..., Any], name: str, *given: Any, **named: Any) -> Any:
    """Compute with an A whose gradient is the same for all inputs of a group: what is equal and moves alike stays equal."""
    kept = layer.lora_a
    rows, axis = _in_groups(kept, layer.linear.group_size)
    # The mean of equal numbers may differ from them in the last bit: its gradient is taken, and its value is not.
    mean = mx.mean(rows, axis=axis, keepdims=True)
    layer.lora_a = (mx.stop_gradient(rows) + (mean - mx.stop_gradient(mean))).reshape(kept.shape)
    try:
        return plain(*given, **named)
    finally:
        layer.lora_a = kept


def _in_groups(a: Any, size: int) -> tuple[Any, int]:
    """Return A, of shape (inputs, rank) or (experts, rank, inputs), with an axis more for the inputs of a group, and that axis."""
    if a.ndim == 2:
        return a.reshape(-1, size, a.shape[1]), 1
    return a.reshape(*a.shape[:-1], -1, size), a.ndim
