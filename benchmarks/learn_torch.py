"""What `fusery.research.learned_scales` does, with PyTorch: called by same_size.py, where mlx multiplies slowly.

The same samples in the same order, the same loss, gradient and steps; the sums of float32 run in another order.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from behaviour_torch import add_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from train_adapters import load_torch


class Learned(nn.Module):
    """A layer whose weight is base + adapter's, or that of codes with scales and biases that move."""

    def __init__(self, dense: nn.Linear, tensors: dict[str, Tensor], path: str, bits: int) -> None:
        super().__init__()
        self.dense, self.own = dense, False
        packed = tensors[f"{path}.weight"].contiguous().view(torch.uint8).numpy()
        self.scales, self.biases = (tensors[f"{path}.{part}"].float() for part in ("scales", "biases"))
        codes = np.unpackbits(packed.reshape(len(packed), -1), axis=1, bitorder="little")
        values = codes.reshape(len(packed), -1, bits) @ (1 << np.arange(bits)).astype(np.float32)
        self.codes = torch.from_numpy(values).reshape(*self.scales.shape, -1)
        self.moved = nn.Parameter(torch.zeros(2, *self.scales.shape))

    def now(self) -> tuple[Tensor, Tensor]:
        """Return scales and biases."""
        return self.scales * (1 + self.moved[0]), self.biases + self.scales * self.moved[1]

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by one of the two weights."""
        if not self.own:
            return self.dense(x)
        scales, biases = self.now()
        weight = (self.codes * scales[..., None] + biases[..., None]).reshape(len(scales), -1)
        return functional.linear(x, weight, self.dense.bias)


def main(base: Path, fused: Path, adapter: Path, texts: Path, out: Path) -> None:
    """Learn, and write scales and biases as float32; print the divergence before and after."""
    about = json.loads(texts.read_text(encoding="utf-8"))
    model, known = load_torch(base), load_file(base / "model.safetensors")
    add_adapter(model, adapter)
    written = load_file(fused / "model.safetensors")
    bits = json.loads((base / "config.json").read_text(encoding="utf-8"))["quantization"]["bits"]
    layers: dict[str, Learned] = {}
    for name in sorted(load_file(adapter / "adapters.safetensors")):
        path, _, part = name.rpartition(".")
        if part == "lora_a" and not torch.equal(known[f"{path}.scales"], written[f"{path}.scales"]):
            parent, _, last = path.rpartition(".")
            layers[path] = Learned(model.get_submodule(path), written, path, bits)
            setattr(model.get_submodule(parent), last, layers[path])
    parameters = [layer.moved for layer in layers.values()]

    def answers(tokens: list[int], *, own: bool) -> Tensor:
        for layer in layers.values():
            layer.own = own
        hidden = model.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
        found: Tensor = model.lm_head(hidden).log_softmax(dim=1)
        return found

    def divergence(tokens: list[int]) -> Tensor:
        with torch.no_grad():
            wanted = answers(tokens, own=False)
        return (wanted.exp() * (wanted - answers(tokens, own=True))).sum()

    @torch.no_grad()
    def aside() -> float:
        return float(sum(divergence(each) for each in about["aside"])) / sum(map(len, about["aside"]))

    before, started = aside(), time.monotonic()
    means, squares = ([torch.zeros_like(each) for each in parameters] for _ in range(2))
    for number, batch in enumerate(about["batches"], start=1):
        tokens = sum(map(len, batch))
        for each in batch:
            divergence(each).backward()  # type: ignore[no-untyped-call]
        share = min(1.0, number / about["warm"]) * (
            1 - (1 - about["last"]) * (number - 1) / len(about["batches"])
        )
        size = (
            about["rate"] * share * math.sqrt(1 - about["second"] ** number) / (1 - about["first"] ** number)
        )
        with torch.no_grad():
            for each, mean, square in zip(parameters, means, squares, strict=True):
                assert each.grad is not None
                slope = each.grad / tokens
                mean += (1 - about["first"]) * (slope - mean)
                square += (1 - about["second"]) * (slope * slope - square)
                each -= size * mean / (square.sqrt() + 1e-8)
                each.clamp_(-about["farthest"] / 2**bits, about["farthest"] / 2**bits)
                each.grad = None
        if number % 10 == 0:
            print(
                number,
                f"{time.monotonic() - started:.0f} s",
                f"{aside():.4f}" if number % 40 == 0 else "",
                file=sys.stderr,
                flush=True,
            )
    found: dict[str, Any] = {}
    for path, layer in layers.items():
        scales, biases = layer.now()
        found |= {
            f"{path}.scales": scales.detach().contiguous(),
            f"{path}.biases": biases.detach().contiguous(),
        }
    save_file(found, out)
    print(json.dumps({"before": before, "after": aside(), "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
