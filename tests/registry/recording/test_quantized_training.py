"""Layers that compute with quantise(W + BA): their outputs are those of the fused layer, their gradients those of the plain one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lora_layers
import numpy as np
import pytest
from lora_layers import as_model, asked, mx, nn

from fusery.registry.errors import BadInputError
from fusery.registry.recording.quantized_training import (
    make_layers,
    require_trainable,
    without_format,
)


def lora_layer(kind: str, mode: str = "affine") -> Any:
    """Return a layer with an update that moves about half of its codes."""
    size = {"affine": 64, "mxfp4": 32}[mode]
    return lora_layers.lora_layer(
        kind, inputs=64, outputs=96, size=size, mode=mode, update=0.02, dtype=mx.bfloat16
    )


def trained_through(layer: Any) -> Any:
    (made,) = make_layers(asked(), as_model(layer), lambda *_: None)
    assert made is layer
    return layer


def calls(kind: str) -> list[Any]:
    x = mx.random.normal((5, 64)).astype(mx.bfloat16)
    if kind == "linear":
        return [lambda layer: layer(x)]
    if kind == "experts":
        chosen = mx.array([[0, 1], [2, 0], [1, 1], [0, 2], [2, 2]])
        return [lambda layer: layer(mx.expand_dims(x, (-2, -3)), chosen)]
    return [lambda layer: layer(mx.array([3, 95, 0])), lambda layer: layer.as_linear(x)]


KINDS = [("linear", "affine"), ("experts", "affine"), ("embedding", "affine"), ("linear", "mxfp4")]


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_what_it_computes_is_what_the_fused_layer_computes(kind: str, mode: str) -> None:
    layer = lora_layer(kind, mode=mode)
    fused, used = layer.fuse(), calls(kind)
    plain = [call(layer) for call in used]
    trained_through(layer)
    for call, unrounded in zip(used, plain, strict=True):
        assert mx.array_equal(call(layer), call(fused)), "to the bit"
        assert not mx.array_equal(call(layer), unrounded), "which the unfused layer does not"


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_the_gradient_of_the_update_goes_straight_through(kind: str, mode: str) -> None:
    plain, through = lora_layer(kind, mode=mode), trained_through(lora_layer(kind, mode=mode))
    for call in calls(kind):
        shape = call(plain).shape
        wanted = mx.random.normal(shape)

        def loss(layer: Any, call: Any = call, wanted: Any = wanted) -> Any:
            return (call(layer).astype(mx.float32) * wanted).sum()

        found = []
        for layer in (plain, through):
            layer.freeze()
            layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
            found.append(nn.value_and_grad(layer, loss)(layer)[1])
        for name in ("lora_a", "lora_b"):
            assert np.any(np.array(found[0][name])), "it has one"
            assert np.allclose(np.array(found[1][name]), np.array(found[0][name]), rtol=1e-5, atol=1e-6), name


def test_what_lies_before_gets_the_gradient_of_the_fused_layer() -> None:
    layer = lora_layer("linear")
    fused, through = layer.fuse(), trained_through(layer)
    x, wanted = mx.random.normal((5, 64)), mx.random.normal((5, 96))
    grads = [mx.grad(lambda x, of=of: (of(x) * wanted).sum())(x) for of in (fused, through)]
    assert mx.array_equal(*grads)


def test_the_format_goes_into_the_arguments() -> None:
    for mode, said in (
        ("affine", {"bits": 4, "group_size": 64}),
        ("mxfp4", {"bits": 4, "group_size": 32, "mode": "mxfp4"}),
    ):
        args = asked()
        make_layers(args, as_model(lora_layer("linear", mode=mode)), lambda *_: None)
        assert args.quantization_aware == said
        without_format(args)
        without_format(args)
        assert not hasattr(args, "quantization_aware")


def test_what_is_validated_keeps_nothing_alive() -> None:
    """mlx makes a layer with random numbers, and each of its states would hold on to the one before."""
    layer, x = trained_through(lora_layer("linear")), mx.zeros((1, 64))
    before = mx.random.state[0]
    mx.eval(layer(x))
    assert mx.random.state[0] is before


def test_layers_that_are_not_in_one_format_are_refused() -> None:
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.lora import LoRALinear

    def lora(layer: Any, kind: Any = LoRALinear) -> Any:
        return kind.from_base(layer)

    model = as_model(lora(nn.Linear(64, 64)))
    with pytest.raises(BadInputError):
        make_layers(asked(), model, lambda *_: None)
    model.layers[0].first = lora(nn.Linear(64, 64).to_quantized(64, 4))
    with pytest.raises(BadInputError, match="4 bits in groups of 64, plain numbers"):
        make_layers(asked(), model, lambda *_: None)
    model.layers[0].proj = lora(nn.Linear(64, 64).to_quantized(32, 4, mode="mxfp4"))
    with pytest.raises(BadInputError, match=r"4 bits in groups of 32 .mxfp4., 4 bits in groups of 64"):
        make_layers(asked(), model, lambda *_: None)
    model.layers[0].proj = lora(nn.Linear(64, 64).to_quantized(64, 4), DoRALinear)
    with pytest.raises(BadInputError, match="DoRALinear"):
        make_layers(asked(), model, lambda *_: None)
    # What is not trained may be in another format: mlx-lm writes routers in 8 bits.
    model = as_model(lora_layer("linear"))
    model.layers[0].router = nn.Linear(64, 64).to_quantized(64, 8)
    assert len(make_layers(asked(), model, lambda *_: None)) == 1


def test_arguments_that_mean_nothing_here_are_refused() -> None:
    usual = {"train": True, "fine_tune_type": "lora", "lora_parameters": {"rank": 4, "dropout": 0.0}}
    require_trainable(SimpleNamespace(**usual), "qat")
    for changed in (
        {"train": False},
        {"fine_tune_type": "dora"},
        {"lora_parameters": {"rank": 4, "dropout": 0.1}},
    ):
        with pytest.raises(BadInputError):
            require_trainable(SimpleNamespace(**(usual | changed)), "qat")
