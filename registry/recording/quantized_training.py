"""Training for a fuse at the base's own size: through its quantiser, or of what its biases can hold (`grouped_training`).

Through the quantiser a layer computes with quantise(W + BA), which is what a fused model is going to hold.  The gradient goes straight through (Bengio et al., arXiv:1308.3432): A and B get the one that x (W + BA)^T would give them where
the outputs are those of the quantised sum, and what lies before the layer gets the one through the quantised sum itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fusery.storage.digest import digest_file
from fusery.storage.jsonfile import read_object
from fusery.storage.publishing import write_atomically

from ..adapters.files import CONFIG
from ..adapters.trained_through import ITS_WEIGHTS, QUANTIZATION_AWARE
from ..errors import BadInputError
from .grouped_training import begin_grouped, grouped_kinds, require_grouped

Way = Literal["qat", "qa-lora"]
"""Through the base's quantiser, or with an update that is constant within its groups; each is an option of `fusery train`."""

_WHAT = {"qat": "through the base's quantiser", "qa-lora": "for the base's groups"}

_SAVED = "*adapters.safetensors"

GROUPED = "use_qalora", "qalora_group_size"
"""PEFT's entries of the configuration for an update that is constant within groups."""


def require_trainable(args: Any, way: Way) -> None:
    """Refuse what cannot be trained that way.

    Raises:
        BadInputError: the trainer's arguments are of that kind.
    """
    if not args.train:
        raise BadInputError(f"--{way} is about training, and nothing is to be trained", hint="-- --train ...")
    if args.fine_tune_type != "lora":
        raise BadInputError(
            f"--{way} trains a LoRA, not --fine-tune-type {args.fine_tune_type}",
            hint="leave out --fine-tune-type",
        )
    parameters = args.lora_parameters
    if way == "qat" and isinstance(parameters, dict) and parameters.get("dropout"):
        raise BadInputError(
            "--qat knows no dropout: what is dropped from an update cannot be quantised with it",
            hint="set dropout to 0 in lora_parameters of the configuration file",
        )


def without_format(args: Any) -> None:
    """Take the format out of arguments that have it from somewhere, such as the configuration of an earlier run that is repeated."""
    for name in (QUANTIZATION_AWARE, ITS_WEIGHTS, *GROUPED):
        if hasattr(args, name):
            delattr(args, name)


def make_layers(args: Any, model: Any, to_lora: Callable[..., None], way: Way = "qat") -> list[Any]:
    """Put LoRA layers into a model that are trained for a fuse at its size, and return them.

    What they are goes into the arguments, from where it comes into the adapter's configuration and the record of the run.

    Args:
        args: the trainer's.
        model: as it was loaded.
        to_lora: mlx-lm's way to make them, `linear_to_lora_layers`.
        way: how they compute.

    Raises:
        BadInputError: they are not quantised, or not all alike, or of a kind that mlx-lm has for some models alone; weights that
            training is to go on with are of another kind.
    """
    import mlx.core as mx

    mx.random.seed(args.seed)
    model.freeze()
    to_lora(model, args.num_layers, args.lora_parameters)
    layers = {path: layer for path, layer in model.named_modules() if hasattr(layer, "lora_a")}
    kinds = _kinds() if way == "qat" else grouped_kinds()
    for path, layer in layers.items():
        if type(layer) not in kinds:
            raise BadInputError(f"--{way} does not know how {path} is fused: {type(layer).__name__}")
    bits, size, mode = _common_format(layers.values(), way)
    if way == "qa-lora":
        if mode != "affine":
            raise BadInputError(
                f"--qa-lora moves the biases of the base's groups, and {mode} has none",
                hint="train on a base in affine codes, which mlx_lm.convert -q makes, or with --qat",
            )
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
    """Write into an adapter's configuration which weights were trained through the quantiser: those saved meanwhile.

    Args:
        folder: where the trainer saves them.
    """
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
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _common_format(layers: Iterable[Any], way: Way) -> tuple[int, int, str]:
    formats = {_format(_inner(layer)) for layer in layers}
    found = formats.pop() if len(formats) == 1 else None
    if found is None and not formats:
        raise BadInputError(
            f"--{way} trains {_WHAT[way]}, and the layers that are trained have none",
            hint="train on a quantised base: mlx_lm.convert -q makes one, and fusery base add takes it in",
        )
    if found is None:
        said = ", ".join(sorted(map(_in_words, formats)))
        raise BadInputError(
            f"--{way} trains for one quantiser, and the layers that are trained are of several kinds: {said}",
            hint="name those of one kind as keys in lora_parameters of the configuration file",
        )
    return found


@cache
def _kinds() -> dict[type, type]:
    """Return mlx-lm's LoRA layers, and those that compute with the quantised sum."""
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    class Linear(LoRALinear):  # type: ignore[misc]
        def __call__(self, *given: Any, **named: Any) -> Any:
            return _straight(super().__call__, _quantised(self), *given, **named)

    class SwitchLinear(LoRASwitchLinear):  # type: ignore[misc]
        def __call__(self, *given: Any, **named: Any) -> Any:
            return _straight(super().__call__, _quantised(self), *given, **named)

    class Embedding(LoRAEmbedding):  # type: ignore[misc]
        def __call__(self, *given: Any, **named: Any) -> Any:
            return _straight(super().__call__, _quantised(self), *given, **named)

        def as_linear(self, *given: Any) -> Any:
            return _straight(super().as_linear, _quantised(self).as_linear, *given)

    return {LoRALinear: Linear, LoRASwitchLinear: SwitchLinear, LoRAEmbedding: Embedding}


def _straight(
    plain: Callable[..., Any], quantised: Callable[..., Any], inputs: Any, *rest: Any, **named: Any
) -> Any:
    """Return what the quantised layer computes, with the gradient that the plain one has by its own A and B."""
    import mlx.core as mx

    unrounded = plain(mx.stop_gradient(inputs), *rest, **named)
    return quantised(inputs, *rest, **named) + (unrounded - mx.stop_gradient(unrounded))


def _quantised(layer: Any) -> Any:
    """Return the layer that mlx-lm's `fuse` makes, without the random numbers with which that begins: each would keep the last alive."""
    import mlx.core as mx

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


def _format(layer: Any) -> tuple[int, int, str] | None:
    """Return how a layer is quantised, None where it is not."""
    return (layer.bits, layer.group_size, layer.mode) if hasattr(layer, "bits") else None


def _in_words(found: tuple[int, int, str] | None) -> str:
    if found is None:
        return "plain numbers"
    bits, size, mode = found
    return f"{bits} bits in groups of {size}{'' if mode == 'affine' else f' ({mode})'}"
