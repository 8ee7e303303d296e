"""Training for a fuse at the base's size: through its quantiser, and within its groups."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lora_layers
import numpy as np
import pytest
from lora_layers import as_model, asked, mx, nn

from fusery.registry.adapters.trained_through import ITS_WEIGHTS
from fusery.registry.errors import BadInputError
from fusery.registry.recording.trainer import without_format
from fusery.research.quantized_training import bound_to_weights, make_layers, require_trainable
from fusery.storage.digest import digest_bytes


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


SIZE = 32


def group_layer(kind: str, mode: str = "affine") -> Any:
    return lora_layers.lora_layer(kind, inputs=96, outputs=64, size=SIZE, mode=mode)


def grouped(layer: Any) -> Any:
    (made,) = make_layers(asked(), as_model(layer), lambda *_: None, "qa-lora")
    return made


def by_group(layer: Any, values: Any) -> np.ndarray:
    """Return numbers like A's as (groups, inputs of a group, everything else)."""
    inputs_first = np.moveaxis(np.array(values), 0 if values.ndim == 2 else -1, 0)
    return inputs_first.reshape(-1, SIZE, values.size // values.shape[0 if values.ndim == 2 else -1])


def compute(layer: Any, x: Any, kind: str) -> Any:
    if kind == "linear":
        return layer(x)
    return layer(mx.expand_dims(x, (-2, -3)), mx.array([[0, 2]] * x.shape[0]))


@pytest.mark.parametrize("kind", ["linear", "experts"])
def test_it_computes_what_a_lora_with_the_same_factors_does(kind: str) -> None:
    plain, made = group_layer(kind), grouped(group_layer(kind))
    parts = by_group(made, made.lora_a)
    assert (parts == parts[:, :1]).all()
    assert len(np.unique(parts[:, 0], axis=0)) == 96 // SIZE, "each group has a row of its own"
    plain.lora_a = made.lora_a
    x = mx.random.normal((5, 96))
    assert mx.array_equal(compute(plain, x, kind), compute(made, x, kind))


@pytest.mark.parametrize("kind", ["linear", "experts"])
def test_what_a_group_shares_gets_the_mean_of_the_gradients(kind: str) -> None:
    plain, made = group_layer(kind), grouped(group_layer(kind))
    plain.lora_a = made.lora_a
    x, wanted = mx.random.normal((5, 96)), mx.random.normal(compute(plain, mx.zeros((5, 96)), kind).shape)

    def gradient(layer: Any) -> Any:
        layer.freeze()
        layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
        return nn.value_and_grad(layer, lambda given: (compute(layer, given, kind) * wanted).sum())(x)[1]

    theirs, ours = gradient(plain), gradient(made)
    assert mx.array_equal(theirs["lora_b"], ours["lora_b"])
    parts = by_group(made, ours["lora_a"])
    assert (parts == parts[:, :1]).all()
    np.testing.assert_allclose(
        parts[:, 0], by_group(made, theirs["lora_a"]).mean(axis=1), rtol=1e-4, atol=1e-5
    )


def test_it_is_written_down_in_the_words_of_peft_and_taken_out_again() -> None:
    args = asked()
    make_layers(args, as_model(group_layer("linear")), lambda *_: None, "qa-lora")
    assert (args.use_qalora, args.qalora_group_size) == (True, SIZE)
    assert not hasattr(args, "quantization_aware")
    without_format(args)
    assert not {"use_qalora", "qalora_group_size"} & vars(args).keys()


def test_what_has_no_biases_to_move_is_refused() -> None:
    for kind, mode, said in (
        ("linear", "mxfp4", "mxfp4"),
        ("embedding", "affine", r"layers\.0\.proj .*LoRAEmbedding"),
    ):
        with pytest.raises(BadInputError, match=said):
            make_layers(asked(), as_model(group_layer(kind, mode=mode)), lambda *_: None, "qa-lora")
    plain = type(group_layer("linear")).from_base(nn.Linear(96, 64))
    with pytest.raises(BadInputError) as caught:
        make_layers(asked(), as_model(plain), lambda *_: None, "qa-lora")
    assert "mlx_lm.convert -q" in str(caught.value.hint)
    usual = {"train": True, "fine_tune_type": "lora", "lora_parameters": {"rank": 4, "dropout": 0.1}}
    require_trainable(SimpleNamespace(**usual), "qa-lora")
    with pytest.raises(BadInputError, match="--fine-tune-type dora"):
        require_trainable(SimpleNamespace(**usual | {"fine_tune_type": "dora"}), "qa-lora")


@pytest.mark.parametrize("kind", ["linear", "experts"])
def test_training_goes_on_from_its_own_kind_alone(kind: str, tmp_path: Path) -> None:
    own, other = grouped(group_layer(kind)), group_layer(kind)
    odd = mx.zeros((40, 4)) if kind == "linear" else mx.zeros((3, 4, 33))  # not divisible into groups
    for name, a, fits in (("own", own.lora_a, True), ("other", other.lora_a, False), ("odd", odd, False)):
        file = tmp_path / f"{name}.safetensors"
        mx.save_safetensors(
            str(file), {"layers.0.proj.lora_a": a, "layers.0.proj.lora_b": mx.ones_like(other.lora_b)}
        )
        args = asked(resume_adapter_file=str(file))
        if fits:
            make_layers(args, as_model(group_layer(kind)), lambda *_: None, "qa-lora")
            continue
        with pytest.raises(BadInputError, match=rf"{name}\.safetensors: layers\.0\.proj\.lora_a"):
            make_layers(args, as_model(group_layer(kind)), lambda *_: None, "qa-lora")


def test_the_configuration_names_the_weights_of_the_run(tmp_path: Path) -> None:
    config, saved = tmp_path / "adapter_config.json", tmp_path / "0000010_adapters.safetensors"
    config.write_text(json.dumps({"seed": 7}))
    (tmp_path / "adapters.safetensors").write_bytes(b"before")
    with bound_to_weights(tmp_path):
        pass
    assert json.loads(config.read_text()) == {"seed": 7}
    with pytest.raises(ZeroDivisionError), bound_to_weights(tmp_path):
        saved.write_bytes(b"weights")
        raise ZeroDivisionError
    assert json.loads(config.read_text()) == {"seed": 7, ITS_WEIGHTS: [digest_bytes(b"weights")]}
