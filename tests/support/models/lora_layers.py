"""Layers of mlx-lm's that are trained.  Import as `lora_layers`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
mx.set_default_device(mx.cpu)


def lora_layer(
    kind: str,
    *,
    inputs: int,
    outputs: int,
    size: int,
    mode: str = "affine",
    update: float = 0.1,
    dtype: Any = None,
) -> Any:
    from mlx_lm.models.switch_layers import SwitchLinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    mx.random.seed(3)
    kinds: dict[str, Any] = {
        "linear": (lambda: nn.Linear(inputs, outputs), LoRALinear),
        "experts": (lambda: SwitchLinear(inputs, outputs, 3, bias=False), LoRASwitchLinear),
        "embedding": (lambda: nn.Embedding(outputs, inputs), LoRAEmbedding),
    }
    make, lora = kinds[kind]
    plain = make()
    plain.set_dtype(dtype or mx.float32)
    layer = lora.from_base(plain.to_quantized(group_size=size, bits=4, mode=mode), r=4, scale=2.0)
    layer.lora_b = update * mx.random.normal(layer.lora_b.shape)
    if kind == "embedding":
        layer.lora_a = mx.random.normal(layer.lora_a.shape)
    return layer


def as_model(layer: Any) -> Any:
    model = nn.Module()
    model.layers = [nn.Module()]
    model.layers[0].proj = layer
    return model


def asked(**more: Any) -> Any:
    return SimpleNamespace(seed=0, num_layers=1, lora_parameters={}, **more)
