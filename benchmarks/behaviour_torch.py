"""What behaviour.py does with mlx, with PyTorch and transformers instead: an MLX folder in float32 on the values that its weights stand for.

For machines on which mlx multiplies slowly.  The two agree to some 1e-5 nats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from behaviour import Predictions, Sample
from safetensors.torch import load_file
from train_adapters import load_torch
from transformers import AutoTokenizer

_GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder; Gemma's base model has no chat template (adapters/README.md)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template or _GEMMA
    return tokenizer


def load_model(folder: Path) -> Any:
    """Load a model folder in float32."""
    return load_torch(folder)


@torch.no_grad()
def add_adapter(model: Any, adapter: Path, scale: float | None = None, factor: float = 1.0) -> float:
    """Add an adapter's update to a model's weights; return |update| / |weights| over what it touches."""
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = factor * (settings["lora_parameters"]["scale"] if scale is None else scale)
    tensors = load_file(adapter / "adapters.safetensors")
    squares = [0.0, 0.0]
    for name in sorted(name for name in tensors if name.endswith(".lora_a")):
        path = name.removesuffix(".lora_a")
        update = (scale * tensors[f"{path}.lora_b"].float().T) @ tensors[name].float().T
        weight = model.get_submodule(path).weight
        for index, value in enumerate((update, weight)):
            squares[index] += float(value.square().sum())
        weight += update
    return math.sqrt(squares[0] / squares[1])


@torch.no_grad()
def predict(model: Any, samples: Sequence[Sample]) -> Predictions:
    """Run a model over samples."""
    logprobs, targets, owners = [], [], []
    for number, sample in enumerate(samples):
        hidden = model.model(torch.tensor([sample.tokens]), use_cache=False).last_hidden_state[0]
        judged = hidden[sample.start - 1 : len(sample.tokens) - 1]
        logprobs.append(model.lm_head(judged).log_softmax(dim=1).numpy())
        targets += sample.tokens[sample.start :]
        owners += [number] * len(judged)
    return Predictions(np.concatenate(logprobs), np.array(targets), np.array(owners))
