"""Layers whose update stays constant within the groups of their base, through any number of steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lora_layers
import numpy as np
import pytest
from lora_layers import as_model, asked, mx, nn

from fusery.registry.errors import BadInputError
from fusery.registry.recording.quantized_training import make_layers, require_trainable, without_format

SIZE = 32


def lora_layer(kind: str, mode: str = "affine") -> Any:
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
    plain, made = lora_layer(kind), grouped(lora_layer(kind))
    parts = by_group(made, made.lora_a)
    assert (parts == parts[:, :1]).all()
    assert len(np.unique(parts[:, 0], axis=0)) == 96 // SIZE, "each group has a row of its own"
    plain.lora_a = made.lora_a
    x = mx.random.normal((5, 96))
    assert mx.array_equal(compute(plain, x, kind), compute(made, x, kind))


@pytest.mark.parametrize("kind", ["linear", "experts"])
def test_what_a_group_shares_gets_the_mean_of_the_gradients(kind: str) -> None:
    plain, made = lora_layer(kind), grouped(lora_layer(kind))
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
    make_layers(args, as_model(lora_layer("linear")), lambda *_: None, "qa-lora")
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
            make_layers(asked(), as_model(lora_layer(kind, mode=mode)), lambda *_: None, "qa-lora")
    plain = type(lora_layer("linear")).from_base(nn.Linear(96, 64))
    with pytest.raises(BadInputError) as caught:
        make_layers(asked(), as_model(plain), lambda *_: None, "qa-lora")
    assert "mlx_lm.convert -q" in str(caught.value.hint)
    usual = {"train": True, "fine_tune_type": "lora", "lora_parameters": {"rank": 4, "dropout": 0.1}}
    require_trainable(SimpleNamespace(**usual), "qa-lora")
    with pytest.raises(BadInputError, match="--fine-tune-type dora"):
        require_trainable(SimpleNamespace(**usual | {"fine_tune_type": "dora"}), "qa-lora")


@pytest.mark.parametrize("kind", ["linear", "experts"])
def test_training_goes_on_from_its_own_kind_alone(kind: str, tmp_path: Path) -> None:
    own, other = grouped(lora_layer(kind)), lora_layer(kind)
    odd = mx.zeros((40, 4)) if kind == "linear" else mx.zeros((3, 4, 33))  # not divisible into groups
    for name, a, fits in (("own", own.lora_a, True), ("other", other.lora_a, False), ("odd", odd, False)):
        file = tmp_path / f"{name}.safetensors"
        mx.save_safetensors(
            str(file), {"layers.0.proj.lora_a": a, "layers.0.proj.lora_b": mx.ones_like(other.lora_b)}
        )
        args = asked(resume_adapter_file=str(file))
        if fits:
            make_layers(args, as_model(lora_layer(kind)), lambda *_: None, "qa-lora")
            continue
        with pytest.raises(BadInputError, match=rf"{name}\.safetensors: layers\.0\.proj\.lora_a"):
            make_layers(args, as_model(lora_layer(kind)), lambda *_: None, "qa-lora")
