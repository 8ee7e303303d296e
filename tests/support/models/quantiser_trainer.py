"""Training through a quantiser with mlx, on mlx-lm's model.

The forward pass is quantise(W + BA), with a straight-through gradient: what unsloth-zoo's `mlx/qat.py` computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def train_through(
    base: Path, adapter: Path, tokens: np.ndarray[Any, Any], *, bits: int, group_size: int, steps: int = 4
) -> np.ndarray[Any, Any]:
    """Train a fresh LoRA for a few steps, write it as mlx-lm does, and return the logits that it was trained to give."""
    import mlx.core as mx
    from mlx import nn, optimizers
    from mlx.utils import tree_flatten
    from mlx_lm.utils import dequantize_model, load_model

    mx.set_default_device(mx.cpu)
    mx.random.seed(0)

    class Through(nn.Module):  # type: ignore[misc]
        def __init__(self, linear: Any) -> None:
            super().__init__()
            self._weight = linear.weight
            rows, columns = linear.weight.shape
            self.lora_a = mx.random.uniform(-0.1, 0.1, (columns, 8))
            self.lora_b = 0.01 * mx.random.normal((8, rows))

        def __call__(self, x: Any) -> Any:
            weight = self._weight + (2.0 * self.lora_b.T) @ self.lora_a.T
            parts = mx.quantize(weight, group_size=group_size, bits=bits)
            rounded = mx.dequantize(*parts, group_size=group_size, bits=bits)
            return x @ (weight + mx.stop_gradient(rounded - weight)).T

    model, _ = load_model(base, lazy=True)
    model = dequantize_model(model)
    model.freeze()
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, Through(getattr(layer.self_attn, name)))
    given = mx.array(tokens)

    def loss(model: Any) -> Any:
        return nn.losses.cross_entropy(model(given)[:, :-1], given[:, 1:]).mean()

    optimizer = optimizers.SGD(learning_rate=0.05)
    gradient = nn.value_and_grad(model, loss)
    for _ in range(steps):
        optimizer.update(model, gradient(model)[1])
        mx.eval(model.parameters())
    adapter.mkdir(parents=True)
    trained = dict(tree_flatten(model.trainable_parameters()))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), trained)
    document = {
        "fine_tune_type": "lora",
        "model": base.name,
        "num_layers": len(model.model.layers),
        "lora_parameters": {
            "rank": 8,
            "scale": 2.0,
            "dropout": 0.0,
            "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        },
        "quantization_aware": {"bits": bits, "group_size": group_size},
    }
    (adapter / "adapter_config.json").write_text(json.dumps(document))
    return np.array(model(given)).astype(np.float64)[0]
