"""Training through the base's own quantiser: a layer computes with quantise(W + BA), which is what a fused model is going to hold.

The gradient goes straight through (Bengio et al., arXiv:1308.3432): A and B get the one that x (W + BA)^T would give them where
the outputs are those of the quantised sum, and what lies before the layer gets the one through the quantised sum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from ..adapters.trained_through import QUANTIZATION_AWARE
from ..errors import BadInputError

_BASE_HINT = "train on a quantised base: mlx_lm.convert -q makes one, and fusery base add takes it in"


def require_trainable_through(args: Any) -> None:
    """Refuse what cannot be trained through a quantiser.

    Raises:
        BadInputError: the trainer's arguments are of that kind.
    """
    if not args.train:
        raise BadInputError("--qat is about training, and nothing is to be trained", hint="-- --train ...")
    if args.fine_tune_type != "lora":
        raise BadInputError(
            f"--qat trains a LoRA, not --fine-tune-type {args.fine_tune_type}",
            hint="leave out --fine-tune-type",
        )
    parameters = args.lora_parameters
    if isinstance(parameters, dict) and parameters.get("dropout"):
        raise BadInputError(
            "--qat knows no dropout: what is dropped from an update cannot be quantised with it",
            hint="set dropout to 0 in lora_parameters of the configuration file",
        )


def set_format(args: Any, model: Any) -> None:
    """Write the format of a model's layers into the arguments, from where it comes into the adapter's configuration.

    Raises:
        BadInputError: they are not quantised, or not all alike.
    """
    formats = {_format(layer) for block in model.layers for layer in _quantised_in(block)}
    if not formats:
        raise BadInputError("--qat trains through the base's quantiser, and it has none", hint=_BASE_HINT)
    if len(formats) > 1:
        said = ", ".join(f"{bits} bits in groups of {size} ({mode})" for bits, size, mode in sorted(formats))
        raise BadInputError(
            f"--qat trains through one quantiser, and the base has layers of several kinds: {said}",
            hint=_BASE_HINT,
        )
    bits, size, mode = formats.pop()
    found = {"bits": bits, "group_size": size} | ({} if mode == "affine" else {"mode": mode})
    setattr(args, QUANTIZATION_AWARE, found)


def train_through(args: Any, model: Any) -> None:
    """Let a model's LoRA layers compute with their sums as they are quantised.

    Args:
        args: after `set_format`.
        model: with its LoRA layers.

    Raises:
        BadInputError: one of the layers is not in that format, or of a kind that mlx-lm's trainer has only for some models.
    """
    wanted = getattr(args, QUANTIZATION_AWARE)
    for path, layer in model.named_modules():
        if not hasattr(layer, "lora_a"):
            continue
        inner = _inner(layer)
        if type(layer) not in _kinds():
            raise BadInputError(f"--qat does not know how {path} is fused: {type(layer).__name__}")
        if not hasattr(inner, "bits") or _format(inner) != (
            wanted["bits"],
            wanted["group_size"],
            wanted.get("mode", "affine"),
        ):
            raise BadInputError(
                f"--qat trains through the base's quantiser, and {path} is not quantised as the layers around it are",
                hint="leave it out of keys in lora_parameters",
            )
        layer.__class__ = _kinds()[type(layer)]


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
    """Return the layer that a fuse makes: mlx-lm's sum, quantised as the base is."""
    import mlx.core as mx

    inner = _inner(layer)
    fused = layer.fuse(dequantize=True)
    fused.weight = mx.stop_gradient(fused.weight)
    return fused.to_quantized(group_size=inner.group_size, bits=inner.bits, mode=inner.mode)


def _inner(layer: Any) -> Any:
    return layer.embedding if "embedding" in layer else layer.get("linear")


def _quantised_in(block: Any) -> Iterator[Any]:
    return (layer for layer in block.modules() if hasattr(layer, "bits") and hasattr(layer, "group_size"))


def _format(layer: Any) -> tuple[int, int, str]:
    return layer.bits, layer.group_size, layer.mode
